"""The plain path: the base model's own decoding, for inputs that fit into its local window."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from focusdoc.decoding.growing import GrowingLayer, growing_cache
from focusdoc.modeling.base import BaseModel


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
        self._base = base
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
            self._cache = growing_cache(self._base.model.config)
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
        ids = torch.tensor([token_ids], device=self._base.device)
        self._base.check_process()
        model = self._base.decoding_model
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
