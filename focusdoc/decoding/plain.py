"""The plain path: the base model's own decoding, for inputs that fit into its local window."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from focusdoc.modeling.base import BaseModel


class PlainDecoder:
    """The base model as transformers runs it, with its own cache and attention: no chunks, no candidates."""

    def __init__(self, base: BaseModel) -> None:
        self._base = base
        self._cache: object | None = None

    @torch.no_grad()
    def start(self, token_ids: Sequence[int]) -> Tensor:
        """Encode `token_ids`; return the float32 logits [vocab] of the first new token."""
        return self._feed(list(token_ids))

    @torch.no_grad()
    def step(self, token: int) -> Tensor:
        """Feed the chosen `token`; return the float32 logits [vocab] of the one after it."""
        return self._feed([token])

    def _feed(self, token_ids: list[int]) -> Tensor:
        ids = torch.tensor([token_ids], device=self._base.device)
        self._base.check_process()
        output = self._base.model(input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._cache = output.past_key_values
        logits: Tensor = output.logits[0, -1].float()
        return logits
