"""A cache of keys and values that grows in place, for decoding token by token."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

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
