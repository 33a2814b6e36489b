"""StreamingLLM (arXiv 2309.17453): the first tokens as attention sinks, and a sliding window.

Every token attends to the first few tokens (the sinks) and to the latest `window` tokens. Positions are those within
the cache: once tokens have been dropped, a token is `sinks + window - 1` after the first sink, wherever it is in the
text. Only the distance to the sinks differs from the true one, so the two parts are computed separately, the window
with true positions and the sinks with re-rotated queries, and merged by log-sum-exp. That is exact, and long prompts
can run in blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from focusdoc.attention import AttentionKernel, merge
from focusdoc.errors import ConfigError
from focusdoc.modeling.base import BaseModel
from focusdoc.modeling.rotary import Rotary, Rotations, rotate

#: Tokens of one pass over the prompt.
BLOCK = 1024


class StreamingDecoder:
    """A decoder (see `focusdoc.decoding.generation.StepDecoder`) with constant memory.

    Args:
        sinks: how many of the first tokens are always visible.
        window: how many of the latest tokens are, the newest included.

    Raises:
        ConfigError: `sinks` or `window` is below 1, or both together exceed the model's context.
    """

    def __init__(self, base: BaseModel, kernel: AttentionKernel, *, sinks: int = 4, window: int = 2044) -> None:
        if sinks < 1 or window < 1:
            raise ConfigError(f"sinks is {sinks} and window {window}; each must be at least 1.")
        if sinks + window > base.context_length:
            raise ConfigError(
                f"{sinks} sinks and a window of {window} exceed the {base.context_length} tokens of {base.name}."
            )
        self.base = base
        self._cache = _Cache(sinks, window, base.rotary, kernel)

    @property
    def num_cached(self) -> int:
        """Tokens in the KV cache."""
        return min(self._cache.length, self._cache.sinks + self._cache.window)

    @torch.no_grad()
    def start(self, token_ids: Sequence[int]) -> Tensor:
        """Run the prompt; return the float32 logits [vocab] of the first new token."""
        return self.base.logits(self.run(token_ids)[-1])

    @torch.no_grad()
    def step(self, token: int) -> Tensor:
        """Feed the chosen `token`; return the float32 logits [vocab] of the one after it."""
        return self.base.logits(self.run([token])[-1])

    @torch.no_grad()
    def run(self, token_ids: Sequence[int], keep: int = 1) -> Tensor:
        """Feed tokens; return the final hidden states of the last `keep` of them, [keep, hidden_size]."""
        cache, rest = self._cache, list(token_ids)
        hidden: list[Tensor] = []
        while rest:
            # The sinks run first in a block of their own, without a window.
            size = cache.sinks - cache.length if cache.length < cache.sinks else BLOCK
            block, rest = rest[:size], rest[size:]
            positions = cache.length + torch.arange(len(block), device=self.base.device)
            ids = torch.tensor(block, device=self.base.device)
            cache.begin(positions)
            hidden.append(self.base.run(ids[None], positions[None], cache)[0])
            cache.length += len(block)
            if len(rest) >= keep:
                hidden.clear()
        return torch.cat(hidden)[-keep:]


@dataclass
class _Cache:
    """The attention layout, with KV of the sinks and of the window; keys are rotated to their true positions."""

    sinks: int
    window: int
    rotary: Rotary
    kernel: AttentionKernel
    length: int = 0
    _sinks: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _latest: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _rotations: Rotations = field(init=False)

    def begin(self, positions: Tensor) -> None:
        """Start a pass over tokens at `positions`, int64 [rows]."""
        in_cache = positions.clamp(max=self.sinks + self.window - 1)
        self._rotations = self.rotary.rotations(in_cache - positions)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        """Attention of one block in one layer; see `AttentionLayout`."""
        if self.length < self.sinks:
            keys, values = _joined(self._sinks.get(layer), key, value)
            output, _ = self.kernel(query, keys, values, scaling=scaling, query_start=self.length)
            self._sinks[layer] = keys, values
            return output.transpose(1, 2)
        keys, values = _joined(self._latest.get(layer), key, value)
        seen = self.window if window is None else min(window, self.window)
        over_window = self.kernel(
            query, keys, values, scaling=scaling, query_start=keys.shape[2] - key.shape[2], window=seen
        )
        rotated = rotate(query, self.rotary.of_layer(self._rotations, layer))
        over_sinks = self.kernel(rotated, *self._sinks[layer], scaling=scaling, query_start=self.sinks)
        # The newest token of the next pass sees window - 1 of these.
        self._latest[layer] = keys[:, :, -self.window :], values[:, :, -self.window :]
        merged, _ = merge(*over_window, *over_sinks)
        return merged.transpose(1, 2)


def _joined(before: tuple[Tensor, Tensor] | None, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    if before is None:
        return key, value
    return torch.cat((before[0], key), dim=2), torch.cat((before[1], value), dim=2)
