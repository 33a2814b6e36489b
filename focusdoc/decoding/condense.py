"""Condensing many target tokens at once: the candidates of T consecutive tokens in one pass.

In incremental mode, token t's candidate attends to its chunk, to the ordinary tail before t and to itself, but to no
other candidate. So the candidates of many tokens can be computed together, beside the local rows, each of which attends
to the candidates of its own step. Training does this with gradients (T targets per pass); attribution does it without
local rows, to score the tokens of a chunk. The paper's own objective has one target, whose candidates all local rows
attend to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from focusdoc.attention import AttentionKernel, attend_frozen, masked_attention, merge, visibility
from focusdoc.decoding.looking import retrieval_scores
from focusdoc.decoding.state import ChunkGroup
from focusdoc.modeling.rotary import Rotary, Rotations, rotate


@dataclass(frozen=True, slots=True)
class RefreshedLocal:
    """Refresh mode: each local row attends to all candidates of the single target and to the local rows up to itself.

    Attributes:
        num_rows: length of the local context, whose rows precede the candidates.
        distances: for each group, the rotation distance of its candidates' keys to their local positions, int64
            [chunks, 1].
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
        """Attention of the local rows in one layer.

        Args:
            query: [num_heads, num_rows, head_dim].
            candidates: keys and values [num_kv_heads, chunks, 1, head_dim], keys rotated to their local positions.
            fresh: the local rows' own keys and values [num_kv_heads, num_rows, head_dim].

        Returns:
            [num_rows, num_heads, head_dim].
        """
        keys, values = (torch.cat((states[:, :, 0], own), dim=1) for states, own in zip(candidates, fresh, strict=True))
        num_candidates = candidates[0].shape[1]
        places = torch.arange(self.num_rows, device=query.device)
        seen = places[None, :] <= places[:, None]
        if window is not None:
            seen &= places[:, None] - places[None, :] < window
        # Candidates stay visible outside a sliding window.
        seen = torch.cat((seen.new_ones(self.num_rows, num_candidates), seen), dim=1)
        output, _ = masked_attention(query[None], keys[None], values[None], seen, scaling=scaling)
        # [1, num_heads, num_rows, head_dim] -> [num_rows, num_heads, head_dim]
        return output[0].transpose(0, 1)


@dataclass(slots=True)
class DenseSweep:
    """The layout of a dense pass with rows ``[local rows, if any | T candidates of each chunk, chunk by chunk]``.

    Attributes:
        groups: the chunks; their tails hold the ordinary KV of every token before the last target.
        num_targets: T.
        tail_start: tail tokens before the first target; target t sees ``tail_start + t`` of them.
        local: the local rows of the paper's objective, whose T is 1; None for a pass of candidates only.
        token_weights: for each group, float32 [chunks, T]: the weights of the candidates in `token_scores`, None if
            those are not needed.
        token_scores: for each group, float32 [chunks, chunk_len]: weighted `retrieval_scores`, summed over heads and
            layers.
    """

    groups: Sequence[ChunkGroup]
    num_targets: int
    tail_start: int
    rotary: Rotary
    kernel: AttentionKernel
    local: RefreshedLocal | None = None
    token_weights: Sequence[Tensor] | None = None
    token_scores: list[Tensor] = field(init=False)
    _rotations: list[Rotations] = field(init=False)

    def __post_init__(self) -> None:
        device = self.groups[0].tail_keys.device
        self.token_scores = [torch.zeros(group.num_chunks, group.chunk_len, device=device) for group in self.groups]
        distances = self.local.distances if self.local is not None else []
        self._rotations = [self.rotary.rotations(distance.flatten()) for distance in distances]

    @property
    def tail_len(self) -> int:
        """Tail tokens visible to the last target."""
        return self.tail_start + self.num_targets - 1

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        """Attention of candidates and local rows in one layer; see `AttentionLayout`."""
        outputs: list[Tensor] = []
        candidate_keys: list[Tensor] = []
        candidate_values: list[Tensor] = []
        row = num_local = self.local.num_rows if self.local is not None else 0
        for index, group in enumerate(self.groups):
            rows = slice(row, row := row + group.num_chunks * self.num_targets)
            own_query, own_key, own_value = (states[0, :, rows] for states in (query, key, value))
            outputs.append(self._attend_group(index, layer, own_query, own_key, own_value, scaling, window))
            if self.local is not None:
                rotation = self.rotary.of_layer(self._rotations[index], layer)
                shape = (group.num_chunks, self.num_targets)
                candidate_keys.append(torch.unflatten(rotate(own_key, rotation), 1, shape))
                candidate_values.append(torch.unflatten(own_value, 1, shape))
        if self.local is not None:
            local = self.local.attend(
                layer,
                query[0, :, :num_local],
                (torch.cat(candidate_keys, dim=1), torch.cat(candidate_values, dim=1)),
                (key[0, :, :num_local], value[0, :, :num_local]),
                scaling,
                window,
            )
            outputs.insert(0, local)
        return torch.cat(outputs, dim=0)[None]

    def _attend_group(
        self, index: int, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        """Candidates of one group, [heads, chunks * T, head_dim], over chunk, tail and themselves."""
        group = self.groups[index]
        shape, start = (group.num_chunks, self.num_targets), group.chunk_len + self.tail_start
        # [heads, chunks * T, head_dim] -> [chunks, heads, T, head_dim]
        query, key, value = (torch.unflatten(states, 1, shape).transpose(0, 1) for states in (query, key, value))
        stored_keys, stored_values = group.block.layer(layer, query.dtype)
        over_chunk, chunk_lse = attend_frozen(
            query, stored_keys, stored_values, kernel=self.kernel, scaling=scaling, query_start=start, window=window
        )
        keys = torch.cat((group.tail_keys[layer, :, :, : self.tail_len], key), dim=2)
        values = torch.cat((group.tail_values[layer, :, :, : self.tail_len], value), dim=2)
        over_tail, tail_lse = masked_attention(query, keys, values, self._tail_mask(window), scaling=scaling)
        output, lse = merge(over_chunk, chunk_lse, over_tail, tail_lse)
        if self.token_weights is not None:
            # [chunks, heads, T, head_dim] -> [chunks, num_kv_heads, heads per KV head * T, head_dim]
            rows = torch.unflatten(query, 1, (stored_keys.shape[1], -1)).flatten(2, 3)
            scores = (rows.float() @ stored_keys.float().mT).view(*query.shape[:3], -1)
            paid = torch.exp(scores * scaling - lse.unsqueeze(-1))
            seen = visibility(self.num_targets, group.chunk_len, query_start=start, window=window, device=query.device)
            if seen is not None:
                paid = paid * seen
            found = retrieval_scores(paid, stored_values)
            self.token_scores[index] += torch.einsum("nhts,nt->ns", found, self.token_weights[index])
        # [chunks, heads, T, head_dim] -> [chunks * T, heads, head_dim]
        return output.transpose(1, 2).flatten(0, 1)

    def _tail_mask(self, window: int | None) -> Tensor:
        """Bool [T, tail_len + T]: target t sees the tail before it and its own candidate."""
        device = self.groups[0].tail_keys.device
        targets = torch.arange(self.num_targets, device=device)[:, None]
        places = torch.arange(self.tail_len, device=device)[None, :]
        tail = places < self.tail_start + targets
        if window is not None:
            tail &= self.tail_start + targets - places < window
        return torch.cat((tail, torch.eye(self.num_targets, dtype=torch.bool, device=device)), dim=1)
