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
class LocalStretch:
    """Incremental mode: T local rows, row t over [the candidates of step t | the local prefix | local rows up to t].

    Attributes:
        keys, values: KV of the local tokens before the first target, without candidates,
            [num_layers, num_kv_heads, prefix_len, head_dim].
        distances: for each group, how far the candidate of target t moves to its local position, int64 [chunks, T].
    """

    keys: Tensor
    values: Tensor
    distances: Sequence[Tensor]

    @property
    def num_rows(self) -> int:
        """One local row for each target."""
        return self.distances[0].shape[1]

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
        prefix_keys, prefix_values = self.keys[layer], self.values[layer]
        keys, values = (torch.cat(pair, dim=1).float() for pair in ((prefix_keys, fresh[0]), (prefix_values, fresh[1])))
        num_kv_heads, num_chunks, num_rows = candidates[0].shape[:3]
        # [num_heads, T, head_dim] -> [num_kv_heads, heads per KV head, T, head_dim]
        asked = torch.unflatten(query.float(), 0, (num_kv_heads, -1)) * scaling
        to_candidates = torch.einsum("ghtd,gktd->ghtk", asked, candidates[0].float())
        to_local = torch.einsum("ghtd,gld->ghtl", asked, keys)
        prefix_len = prefix_keys.shape[1]
        here = prefix_len + torch.arange(num_rows, device=query.device)[:, None]
        places = torch.arange(keys.shape[1], device=query.device)[None, :]
        seen = places <= here
        if window is not None:
            seen &= here - places < window
        scores = torch.cat((to_candidates, to_local.masked_fill(~seen, -torch.inf)), dim=-1)
        weights = scores.softmax(dim=-1)
        output = torch.einsum("ghtk,gktd->ghtd", weights[..., :num_chunks], candidates[1].float())
        output = output + torch.einsum("ghtl,gld->ghtd", weights[..., num_chunks:], values)
        # [num_kv_heads, heads per KV head, T, head_dim] -> [T, num_heads, head_dim]
        return output.flatten(0, 1).transpose(0, 1).to(query.dtype)


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
