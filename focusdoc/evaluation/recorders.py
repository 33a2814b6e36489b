"""Attention kernels that keep what the newest local token attended to: chunks or their candidates, and local tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from focusdoc.attention import AttentionKernel, attention_weights


class _Recorder:
    """What one layer after another tells, put together to steps.

    Args:
        num_chunks: of the memory that is asked.
        layer, head: what `steps` shows; None for the mean over all.
    """

    def __init__(
        self, kernel: AttentionKernel, num_layers: int, num_chunks: int, layer: int | None, head: int | None
    ) -> None:
        self._kernel = kernel
        self._num_layers, self._num_chunks = num_layers, num_chunks
        self._layer, self._head = layer, head
        self._told: list[Tensor] = []
        #: Of every step, float32 [chunks + local tokens], in the chosen layer and head.
        self.steps: list[Tensor] = []
        #: Of every step, float32 [chunks], the mean over all layers and heads.
        self.masses: list[Tensor] = []

    def _tell(self, of_heads: Tensor) -> None:
        """Take in what the next layer's heads attended to, float32 [heads, chunks + local tokens]."""
        self._told.append(of_heads.cpu())
        if len(self._told) == self._num_layers:
            every = torch.stack(self._told)
            layers = every if self._layer is None else every[self._layer, None]
            heads = layers if self._head is None else layers[:, self._head, None]
            self.steps.append(heads.mean(dim=(0, 1)))
            self.masses.append(every[..., : self._num_chunks].mean(dim=(0, 1)))
            self._told.clear()


class CandidateRecorder(_Recorder):
    """Of a sweep, in which the call over candidates and local tokens is the one with a prefix, once in each layer."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scaling: float,
        query_start: int,
        window: int | None = None,
        prefix: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """See `focusdoc.attention.naive.attend`."""
        if prefix:
            place = query_start + query.shape[2] - 1
            weights, _ = attention_weights(
                query[:, :, -1:], key, scaling=scaling, query_start=place, window=window, prefix=prefix
            )
            self._tell(weights[0, :, 0])
        return self._kernel(query, key, value, scaling=scaling, query_start=query_start, window=window, prefix=prefix)
