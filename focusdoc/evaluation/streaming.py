"""StreamingLLM (arXiv 2309.17453): the first tokens as attention sinks, and a sliding window.

Every token attends to the first few tokens (the sinks) and to the latest `window` tokens. Positions are those within
the cache: once tokens have been dropped, a token is `sinks + window - 1` after the first sink, wherever it is in the
text. Only the distance to the sinks differs from the true one, so the two parts are computed separately, the window
with true positions and the sinks with re-rotated queries, and merged by log-sum-exp. That is exact, and long prompts
can run in blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from focusdoc.attention import AttentionKernel, merge
from focusdoc.engine import FocusEngine
from focusdoc.errors import ConfigError
from focusdoc.evaluation.item import ModeSettings
from focusdoc.modeling.base import BaseModel
from focusdoc.modeling.rotary import rotate

#: Tokens of one pass over the prompt.
BLOCK = 1024


class StreamingDecoder:
    """A decoder (see `focusdoc.decoding.generation.StepDecoder`) with constant memory, and its attention layout.

    The first `sinks` tokens are always visible, and the latest `window`, the newest included.

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
        self._kernel, self._num_sinks, self.window = kernel, sinks, window
        self._length = 0
        # KV of the sinks and of the window by layer; keys are rotated to their true positions.
        self._sinks: dict[int, tuple[Tensor, Tensor]] = {}
        self._latest: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def num_cached(self) -> int:
        """Tokens in the KV cache."""
        return min(self._length, self._num_sinks + self.window)

    @torch.no_grad()
    def start(self, token_ids: Sequence[int]) -> Tensor:
        """Run the prompt; return the float32 logits [vocab] of the first new token."""
        return self.base.logits(self.run(token_ids)[-1])

    def step(self, token: int) -> Tensor:
        """Feed the chosen `token`; return the float32 logits [vocab] of the one after it."""
        return self.start([token])

    @torch.no_grad()
    def run(self, token_ids: Sequence[int], keep: int = 1) -> Tensor:
        """Feed tokens; return the final hidden states of the last `keep` of them, [keep, hidden_size]."""
        rest = list(token_ids)
        hidden: list[Tensor] = []
        while rest:
            # The sinks run first in a block of their own, without a window.
            size = self._num_sinks - self._length if self._length < self._num_sinks else BLOCK
            block, rest = rest[:size], rest[size:]
            positions = self._length + torch.arange(len(block), device=self.base.device)
            in_cache = positions.clamp(max=self._num_sinks + self.window - 1)
            self._rotations = self.base.rotary.rotations(in_cache - positions)
            ids = torch.tensor(block, device=self.base.device)
            hidden.append(self.base.run(ids[None], positions[None], self)[0])
            self._length += len(block)
            if len(rest) >= keep:
                hidden.clear()
        return torch.cat(hidden)[-keep:]

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        """Attention of one block in one layer; see `AttentionLayout`."""
        if self._length < self._num_sinks:
            keys, values = _joined(self._sinks.get(layer), key, value)
            output, _ = self._kernel(query, keys, values, scaling=scaling, query_start=self._length)
            self._sinks[layer] = keys, values
            return output.transpose(1, 2)
        keys, values = _joined(self._latest.get(layer), key, value)
        seen = self.window if window is None else min(window, self.window)
        over_window = self._kernel(
            query, keys, values, scaling=scaling, query_start=keys.shape[2] - key.shape[2], window=seen
        )
        rotated = rotate(query, self.base.rotary.of_layer(self._rotations, layer))
        over_sinks = self._kernel(rotated, *self._sinks[layer], scaling=scaling, query_start=self._num_sinks)
        # The newest token of the next pass sees window - 1 of these.
        self._latest[layer] = keys[:, :, -self.window :], values[:, :, -self.window :]
        merged, _ = merge(*over_window, *over_sinks)
        return merged.transpose(1, 2)


def streaming_decoder(engine: FocusEngine, settings: ModeSettings) -> StreamingDecoder:
    """StreamingLLM over the base model, with as many tokens as the local window, sinks included."""
    window = max(1, settings.local_window - settings.sinks)
    return StreamingDecoder(engine.base, engine.kernel, sinks=settings.sinks, window=window)


def _joined(before: tuple[Tensor, Tensor] | None, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    if before is None:
        return key, value
    return torch.cat((before[0], key), dim=2), torch.cat((before[1], value), dim=2)
