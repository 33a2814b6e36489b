"""One pass through the layers for chunk rows, local rows and candidates together.

The rows of a sweep are, in this order::

    [ ordinary rows of every chunk, chunk by chunk | local rows | one candidate row per chunk ]

In every layer, the ordinary rows and the candidate of a chunk attend to that chunk and its tail (the dynamic prompt and
the answer so far). The candidates' new keys are rotated to their positions before the local context, and in the same
layer local rows attend to them. So chunks and local context advance together, and a step costs one sweep (paper,
section 3.1 and figure 2; the paper's code makes k+1 passes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from focusdoc.attention import AttentionKernel
from focusdoc.decoding.state import ChunkGroup, LocalContext, QuestionRows
from focusdoc.modeling.rotary import Rotary, Rotations, rotate

#: Rows per sweep if `FocusConfig.chunk_batch` is None; bounds the activations of the prompt phase.
MAX_ROWS = 8192


@dataclass(frozen=True, slots=True)
class CandidateQueries:
    """The queries of a sweep's candidates in one layer.

    Attributes:
        queries: scaled, float32 [num_heads, num_candidates, head_dim].
        keys: the candidates' own, at their positions behind the chunks, [num_kv_heads, num_candidates, head_dim].
        window: the layer's sliding window, or None.
        question: the question rows' queries in the layer's retrieval heads, scaled, float32 [num_candidates, heads,
            rows, head_dim].
    """

    queries: Tensor
    keys: Tensor
    window: int | None
    question: Tensor | None = None


@dataclass(slots=True)
class Sweep:
    """The rows of one sweep, and their attention (an `AttentionLayout`).

    Attributes:
        token_ids, positions: int64 [rows].
        groups: the chunks of the sweep.
        tail_start: tokens already in every tail.
        num_ordinary: ordinary rows per chunk; its candidate follows them.
        local: the local context; the sweep's candidates are written to its slots.
        num_local: local rows; 0 if this sweep only makes candidates.
        sees_from: the first local row that sees the candidates.
        distances: for each group, the rotation distance of its candidates to their local positions, int64 [chunks].
        recorded: a list that collects the candidates' queries, layer by layer; None to record none.
        question: the rows whose queries are recorded too, or None.
    """

    token_ids: Tensor
    positions: Tensor
    groups: Sequence[ChunkGroup]
    tail_start: int
    num_ordinary: int
    local: LocalContext
    num_local: int
    sees_from: int
    distances: Sequence[Tensor]
    rotary: Rotary
    kernel: AttentionKernel
    recorded: list[CandidateQueries] | None = None
    question: QuestionRows | None = None
    _rotations: list[Rotations] = field(init=False)
    #: For each group, its ordinary rows and its candidate rows.
    _spans: list[tuple[slice, slice]] = field(default_factory=list)
    #: The last local row in every layer, float32: its scaled query [num_heads, head_dim] and its lse [num_heads].
    _last_queries: list[Tensor] = field(default_factory=list)
    _last_lses: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rotations = [self.rotary.rotations(distance) for distance in self.distances]
        row, candidate = 0, self.num_leading
        for group in self.groups:
            ordinary = slice(row, row := row + group.num_chunks * self.num_ordinary)
            self._spans.append((ordinary, slice(candidate, candidate := candidate + group.num_chunks)))

    def restart(self) -> None:
        """Forget what an unfinished pass has recorded; its keys and values are overwritten by the next one."""
        for recorded in (self._last_queries, self._last_lses, self.recorded or []):
            recorded.clear()

    @property
    def num_candidates(self) -> int:
        """Candidates made by this sweep; their rows come last."""
        return sum(group.num_chunks for group in self.groups)

    @property
    def num_leading(self) -> int:
        """Rows before the candidates; the last of them is the newest local row, if there are local rows."""
        return len(self.token_ids) - self.num_candidates

    @property
    def candidate_mass(self) -> Tensor:
        """Attention of the last local row to each candidate, float32 [num_candidates].

        Mean over heads, sum over layers; computed once for all layers, after the sweep.
        """
        keys = self.local.keys[:, :, : self.local.num_candidates].float()
        queries, lse = torch.stack(self._last_queries), torch.stack(self._last_lses)
        # [layers, num_heads, head_dim] -> [layers, num_kv_heads, heads per KV head, head_dim]
        scores = torch.unflatten(queries, 1, (keys.shape[1], -1)) @ keys.mT
        return torch.exp(scores.flatten(1, 2) - lse[:, :, None]).mean(dim=1).sum(dim=0)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        """Attention of all three kinds of rows in one layer; see `AttentionLayout`."""
        queries = self.store_kv(layer, query, key, value)
        over = [
            group.block.attend_with(
                layer,
                rows,
                self.tail(layer, group),
                kernel=self.kernel,
                scaling=scaling,
                tail_start=self.tail_start,
                window=window,
            )
            for group, rows in zip(self.groups, queries, strict=True)
        ]
        return self.finish(layer, query, key, value, over, scaling, window)

    def tail(self, layer: int, group: ChunkGroup) -> tuple[Tensor, Tensor]:
        """Keys and values of a group's tail in one layer, including the newest rows."""
        stop = self.tail_start + self.num_ordinary + 1
        return group.tail_keys[layer, :, :, :stop], group.tail_values[layer, :, :, :stop]

    def attend_tail(
        self, layer: int, group: ChunkGroup, rows: Tensor, scaling: float, window: int | None
    ) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp of a group's newest rows over their tails only."""
        tail = self.tail(layer, group)
        return self.kernel(rows, *tail, scaling=scaling, query_start=self.tail_start, window=window)

    def store_kv(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Store the new keys and values in the tails and candidate slots.

        Returns, for each group, the queries of its rows, [num_chunks, num_heads, num_ordinary + 1, head_dim].
        """
        stop = self.tail_start + self.num_ordinary + 1
        queries = []
        for group, rows, rotation in zip(self.groups, self._spans, self._rotations, strict=True):
            # The candidate's KV takes the slot of its ordinary KV, which overwrites it one step later.
            group.tail_keys[layer, :, :, self.tail_start : stop] = self._by_chunk(key[0], rows, group.num_chunks)
            group.tail_values[layer, :, :, self.tail_start : stop] = self._by_chunk(value[0], rows, group.num_chunks)
            queries.append(self._by_chunk(query[0], rows, group.num_chunks))
            rotated = rotate(key[0, :, rows[1]], self.rotary.of_layer(rotation, layer))
            self.local.keys[layer, :, group.span] = rotated
            self.local.values[layer, :, group.span] = value[0, :, rows[1]]
        return queries

    def finish(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        over: Sequence[Tensor],
        scaling: float,
        window: int | None,
    ) -> Tensor:
        """Attend the local rows and assemble the output of all rows: [1, rows, num_heads, head_dim].

        `over` is, for each group, its rows' output over chunk and tail.
        """
        _, num_heads, num_rows, head_dim = query.shape
        output = query.new_empty((1, num_rows, num_heads, head_dim))
        for rows, found in zip(self._spans, over, strict=True):
            # [num_chunks, num_heads, new, head_dim] -> [num_chunks, new, num_heads, head_dim]
            by_row = found.transpose(1, 2)
            output[0, rows[0]] = by_row[:, :-1].flatten(0, 1)
            output[0, rows[1]] = by_row[:, -1]
        candidate = self.num_leading
        if self.recorded is not None:
            queries = query[0, :, candidate:].float() * scaling
            question = self._question_queries(layer, query[0], scaling)
            self.recorded.append(CandidateQueries(queries, key[0, :, candidate:].clone(), window, question))
        if self.num_local:
            local = slice(candidate - self.num_local, candidate)
            query, key, value = (states[:, :, local] for states in (query, key, value))
            self._attend_local(layer, query, key, value, output[:, local], scaling, window)
        return output

    def _question_queries(self, layer: int, query: Tensor, scaling: float) -> Tensor | None:
        """See `CandidateQueries.question`; `query` is [num_heads, rows, head_dim]."""
        heads = self.question.heads_of(layer) if self.question is not None else []
        if self.question is None or not heads:
            return None
        queries = [
            self._by_chunk(query[heads], rows, group.num_chunks)[:, :, self.question.first : self.question.last]
            for group, rows in zip(self.groups, self._spans, strict=True)
        ]
        return torch.cat(queries).float() * scaling

    def _by_chunk(self, states: Tensor, rows: tuple[slice, slice], num_chunks: int) -> Tensor:
        """Rows of states [heads, rows, head_dim] as [num_chunks, heads, num_ordinary + 1, head_dim]."""
        ordinary = torch.unflatten(states[:, rows[0]], 1, (num_chunks, self.num_ordinary))
        candidate = states[:, rows[1]].unsqueeze(2)
        return torch.cat((ordinary, candidate), dim=2).transpose(0, 1)

    def _attend_local(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor, scaling: float, window: int | None
    ) -> None:
        """Local rows over the local context, and those from `sees_from` on over the candidates as well."""
        num_candidates = self.local.num_candidates
        keys, values = self.local.keys[layer][None], self.local.values[layer][None]
        begin = num_candidates + self.local.length
        keys[:, :, begin : begin + self.num_local] = key
        values[:, :, begin : begin + self.num_local] = value
        if self.sees_from:
            stop = begin + self.sees_from
            blind, _ = self.kernel(
                query[:, :, : self.sees_from],
                keys[:, :, num_candidates:stop],
                values[:, :, num_candidates:stop],
                scaling=scaling,
                query_start=self.local.length,
                window=window,
            )
            output[:, : self.sees_from] = blind.transpose(1, 2)
        stop = begin + self.num_local
        seeing, lse = self.kernel(
            query[:, :, self.sees_from :],
            keys[:, :, :stop],
            values[:, :, :stop],
            scaling=scaling,
            query_start=begin + self.sees_from,
            window=window,
            prefix=num_candidates,
        )
        output[:, self.sees_from :] = seeing.transpose(1, 2)
        self._last_queries.append(query[0, :, -1].float() * scaling)
        self._last_lses.append(lse[0, :, -1])
