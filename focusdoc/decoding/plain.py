"""The plain path: the base model's own decoding, for what fits into its window."""

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
from focusdoc.decoding.prompt import Asked
from focusdoc.errors import PromptTooLongError
from focusdoc.modeling.base import BaseModel

#: Tokens that there is room for behind those that are kept, when they are copied.
_ROOM = 256


class GrowingLayer(DynamicLayer):  # type: ignore[misc]  # transformers' class is untyped
    """Transformers' layer, but that it copies all that it keeps once in `_ROOM` tokens, not for every token.

    Copies of ever new sizes cost more than the time of their bytes: the system clears fresh pages for each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.keys: Tensor
        self.values: Tensor
        self._key_room: Tensor | None = None
        self._value_room: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append new keys and values [batch, heads, tokens, head_dim]; returns all of them."""
        if self.get_seq_length() == 0:
            kept: tuple[Tensor, Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return kept
        total = self.get_seq_length() + key_states.shape[-2]
        self._key_room = _appended(self.keys, key_states, self._key_room)
        self._value_room = _appended(self.values, value_states, self._value_room)
        self.keys, self.values = self._key_room[..., :total, :], self._value_room[..., :total, :]
        return self.keys, self.values


def _appended(kept: Tensor, new: Tensor, room: Tensor | None) -> Tensor:
    """The tensor with `kept`, `new` behind it, and room: `room`, or a larger one where that is full or not kept's."""
    length = kept.shape[-2]
    total = length + new.shape[-2]
    if room is None or room.shape[-2] < total or room.data_ptr() != kept.data_ptr():
        room = new.new_empty(*new.shape[:-2], total + _ROOM, new.shape[-1])
        room[..., :length, :] = kept
    room[..., length:total, :] = new
    return room


def growing_cache(config: Any) -> DynamicCache:
    """The cache of a model of transformers, which grows in place in its layers without a window."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class PlainDecoder:
    """The base model as transformers runs it, with its own cache and attention: no chunks, no candidates.

    Args:
        prefixes: where what was fed is kept, so that the next prompt that begins alike is fed from where it differs.
        again: given the tokens of the answer so far, the prompt that they go on behind from here, or None for the one
            that they have.
    """

    def __init__(
        self,
        base: BaseModel,
        prefixes: PrefixCache | None = None,
        again: Callable[[Sequence[int]], Sequence[int] | None] | None = None,
    ) -> None:
        self.base = base
        self._prefixes = prefixes or PrefixCache()
        self._again = again
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
        """Feed the chosen `token`; return the float32 logits [vocab] of the one after it."""
        self._written.append(token)
        prompt = self._again(self._written) if self._again is not None else None
        if prompt is None:
            return self._feed([token])
        self.close()
        return self.start([*prompt, *self._written])

    def close(self) -> None:
        """Keep what was fed for the next one; nothing may be fed behind it."""
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
    """The keys and values of the last prompt and its answer, which one of any number of threads may have at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: tuple[list[int], Any] | None = None

    def take(self, token_ids: Sequence[int]) -> tuple[list[int], Any]:
        """The known beginning of `token_ids`, at most all but the last, and its cache; ([], None) where none is."""
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is None:
            return [], None
        alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(kept[0], token_ids[:-1], strict=False)))
        if not alike:
            return [], None
        cache = kept[1]
        if alike < len(kept[0]):
            cache.crop(alike - len(kept[0]))
        return kept[0][:alike], cache

    def keep(self, token_ids: list[int], cache: Any) -> None:
        """Keep a cache of these tokens, unless a part of it cannot be cut, as of a layer with a sliding window."""
        if cache is not None and all(isinstance(layer, GrowingLayer) for layer in cache.layers):
            with self._lock:
                self._kept = token_ids, cache


class Plain(Way):
    """The base model answers what needs no memory."""

    def __init__(self, base: BaseModel) -> None:
        self.base = base

    def check(self, asked: Asked) -> None:
        """See `Way.check`.

        Raises:
            PromptTooLongError: prompt and answer do not fit into the model's positions.
        """
        length, new, limit = len(asked.local_ids), asked.settings.max_new_tokens, self.base.context_length
        if length + new > limit:
            raise PromptTooLongError(
                f"The prompt's {length} tokens and {new} new ones are more than the {limit} positions of "
                f"{self.base.name}; lower max_new_tokens."
            )

    def stream(self, asked: Asked) -> Generator[TextPiece, None, None]:
        """See `Way.stream`."""
        decoder = PlainDecoder(self.base)
        begun = time.perf_counter()
        yield from Writer(decoder, decoder.start(asked.local_ids), asked, begun=begun).pieces()
