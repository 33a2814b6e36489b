"""The local rows of a pass that condenses many targets at once: what they attend to, in either decode mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from focusdoc.attention import masked_attention


class LocalRows(Protocol):
    """The local rows of a pass: how many, and what they attend to."""

    @property
    def num_rows(self) -> int:
        """Local rows, in front of the candidates."""
        ...

    @property
    def distances(self) -> Sequence[Tensor]:
        """For each group, how far its candidates' keys move to their local positions, int64 [chunks, T]."""
        ...

    def attend(
        self,
        layer: int,
        query: Tensor,
        candidates: tuple[Tensor, Tensor],
        fresh: tuple[Tensor, Tensor],
        scaling: float,
        window: int | None,
    ) -> Tensor:
        """Attention of the local rows in one layer.

        Args:
            query: [num_heads, num_rows, head_dim].
            candidates: keys and values [num_kv_heads, chunks, T, head_dim], keys at their local positions.
            fresh: the local rows' own keys and values [num_kv_heads, num_rows, head_dim].

        Returns:
            [num_rows, num_heads, head_dim].
        """
        ...


@dataclass(frozen=True, slots=True)
class RefreshedLocal:
    """Refresh mode: every local row over [the candidates of the one target | local rows up to itself].

    Attributes:
        num_rows: local rows, the whole local context.
        distances: for each group, how far its candidates move to their local positions, int64 [chunks, 1].
    """

    num_rows: int
    distances: Sequence[Tensor]

    def attend(
        self,
        layer: int,
        query: Tensor,
        candidates: tuple[Tensor, Tensor],
        fresh: tuple[Tensor, Tensor],
        scaling: float,
        window: int | None,
    ) -> Tensor:
        """See `LocalRows`."""
        keys, values = (torch.cat((given[:, :, 0], own), dim=1) for given, own in zip(candidates, fresh, strict=True))
        num_candidates = candidates[0].shape[1]
        places = torch.arange(self.num_rows, device=query.device)
        seen = places[None, :] <= places[:, None]
        if window is not None:
            seen &= places[:, None] - places[None, :] < window
        # Candidates are never out of sight, not even of a sliding window.
        seen = torch.cat((seen.new_ones(self.num_rows, num_candidates), seen), dim=1)
        output, _ = masked_attention(query[None], keys[None], values[None], seen, scaling=scaling)
        # [1, num_heads, num_rows, head_dim] -> [num_rows, num_heads, head_dim]
        return output[0].transpose(0, 1)
