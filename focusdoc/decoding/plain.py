"""The plain path: ordinary decoding by the base model, for prompts that fit its window."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from focusdoc.decoding.answer import TextPiece
from focusdoc.decoding.answering import Way, Writer
from focusdoc.decoding.prompt import Request
from focusdoc.errors import PromptTooLongError
from focusdoc.modeling.base import BaseModel

#: Spare capacity in tokens when a cache layer is reallocated.
_SPARE_TOKENS = 256


class GrowingLayer(DynamicLayer):  # type: ignore[misc]  # transformers' class is untyped
    """Transformers' dynamic cache layer, reallocated once per `_SPARE_TOKENS` tokens instead of at every token.

    Reallocation costs more than copying the bytes: the system zeroes fresh pages each time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.keys: Tensor
        self.values: Tensor
        self._key_buffer: Tensor | None = None
        self._value_buffer: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values [batch, heads, tokens, head_dim]; return all of them."""
        if self.get_seq_length() == 0:
            kept: tuple[Tensor, Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return kept
        total = self.get_seq_length() + key_states.shape[-2]
        self._key_buffer = _append(self.keys, key_states, self._key_buffer)
        self._value_buffer = _append(self.values, value_states, self._value_buffer)
        self.keys, self.values = self._key_buffer[..., :total, :], self._value_buffer[..., :total, :]
        return self.keys, self.values


def _append(kept: Tensor, new: Tensor, buffer: Tensor | None) -> Tensor:
    """`new` appended to `kept`, in `buffer` or, if that is full or not kept's storage, in a larger one."""
    length = kept.shape[-2]
    total = length + new.shape[-2]
    if buffer is None or buffer.shape[-2] < total or buffer.data_ptr() != kept.data_ptr():
        buffer = new.new_empty(*new.shape[:-2], total + _SPARE_TOKENS, new.shape[-1])
        buffer[..., :length, :] = kept
    buffer[..., length:total, :] = new
    return buffer


def growing_cache(config: Any) -> DynamicCache:
    """A transformers cache whose layers without a sliding window grow in place."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class PlainDecoder:
    """The base model as transformers runs it, with its own cache and attention: no chunks, no candidates.

    Args:
        prefixes: caches the KV of the last prompt, so that a prompt with the same prefix only feeds the rest.
        new_prompt: called with the answer's tokens so far; returns a prompt to continue them after, or None to keep
            the current one.
    """

    def __init__(
        self,
        base: BaseModel,
        prefixes: PrefixCache | None = None,
        new_prompt: Callable[[Sequence[int]], Sequence[int] | None] | None = None,
    ) -> None:
        self.base = base
        self._prefixes = prefixes or PrefixCache()
        self._new_prompt = new_prompt
        self._written: list[int] = []
        self._cache: Any = None
        self._fed: list[int] = []

    @torch.no_grad()
    def start(self, token_ids: Sequence[int]) -> Tensor:
        """Encode `token_ids`; return the float32 logits [vocab] of the first new token."""
        self._fed, self._cache = self._prefixes.take(token_ids)
        if self._cache is None:
            self._cache = growing_cache(self.base.model.config)
        return self._feed(list(token_ids[len(self._fed) :]))

    @torch.no_grad()
    def step(self, token: int) -> Tensor:
        """Feed the chosen `token`; return the float32 logits [vocab] of the next one."""
        self._written.append(token)
        prompt = self._new_prompt(self._written) if self._new_prompt is not None else None
        if prompt is None:
            return self._feed([token])
        self.close()
        return self.start([*prompt, *self._written])

    def close(self) -> None:
        """Return the KV to the prefix cache; do not feed anything afterwards."""
        self._prefixes.keep(self._fed, self._cache)

    def _feed(self, token_ids: list[int]) -> Tensor:
        ids = torch.tensor([token_ids], device=self.base.device)
        self.base.check_process()
        model = self.base.decoding_model
        output = model(input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._fed += token_ids
        logits: Tensor = output.logits[0, -1].float()
        return logits


class PrefixCache:
    """The KV of the last prompt and its answer; at most one thread at a time can take it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: tuple[list[int], Any] | None = None

    def take(self, token_ids: Sequence[int]) -> tuple[list[int], Any]:
        """The longest cached prefix of `token_ids`, without its last token, and its cache; ([], None) if none."""
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is None:
            return [], None
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(kept[0], token_ids[:-1], strict=False)))
        if not shared:
            return [], None
        cache = kept[1]
        if shared < len(kept[0]):
            cache.crop(shared - len(kept[0]))
        return kept[0][:shared], cache

    def keep(self, token_ids: list[int], cache: Any) -> None:
        """Keep a cache for these tokens, if it can be cropped (not with a sliding window)."""
        if cache is not None and all(isinstance(layer, GrowingLayer) for layer in cache.layers):
            with self._lock:
                self._kept = token_ids, cache


class Plain(Way):
    """The base model answers without documents."""

    def __init__(self, base: BaseModel) -> None:
        self.base = base

    def check(self, request: Request) -> None:
        """See `Way.check`. PromptTooLongError: prompt and answer do not fit the model's positions."""
        length, new, limit = len(request.local_ids), request.settings.max_new_tokens, self.base.context_length
        if length + new > limit:
            raise PromptTooLongError(
                f"The prompt's {length} tokens and {new} new ones are more than the {limit} positions of "
                f"{self.base.name}; lower max_new_tokens."
            )

    def stream(self, request: Request) -> Generator[TextPiece, None, None]:
        """See `Way.stream`."""
        decoder = PlainDecoder(self.base)
        started_at = time.perf_counter()
        yield from Writer(decoder, decoder.start(request.local_ids), request, started_at=started_at).pieces()
