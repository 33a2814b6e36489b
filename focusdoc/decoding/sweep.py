"""One pass through the layers for chunk rows, local rows and candidates together.

The rows of a sweep stand in this order::

    [ ordinary rows of every chunk, chunk by chunk | local rows | one candidate row per chunk ]

In every layer, the ordinary rows and the candidate of a chunk attend to that chunk and to its tail (the dynamic
prompt and the answer so far); the candidates' fresh keys and values, moved to their places in front of the local
context, are what the local rows that see candidates attend to in the same layer. So chunks and local context
advance together, and one step costs one sweep (paper, section 3.1 and figure 2; the paper's code makes k+1 passes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from focusdoc.attention import AttentionKernel
from focusdoc.decoding.looking import QuestionRows
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.modeling.rotary import Rotary, rotate


@dataclass(slots=True)
class ChunkGroup:
    """Consecutive chunks of one length with their tails.

    Attributes:
        block: the chunks' stored KV, only read.
        tail_keys, tail_values: room for what runs behind them, [num_layers, num_chunks, num_kv_heads, room, head_dim];
            it grows with the answer.
        first: index of the group's first chunk among all chunks.
    """

    block: MemoryBlock
    tail_keys: Tensor
    tail_values: Tensor
    first: int

    @classmethod
    def of(cls, block: MemoryBlock, start: int, stop: int, first: int, room: int, dtype: torch.dtype) -> ChunkGroup:
        """Chunks `start` to `stop` of `block`, with room for a tail of `room` tokens in `dtype`."""
        block = block.chunks(start, stop)
        shape = (*block.keys.shape[:3], room, block.keys.shape[4])
        keys, values = (torch.empty(shape, dtype=dtype, device=block.device) for _ in range(2))
        return cls(block, keys, values, first)

    @property
    def room(self) -> int:
        """Tokens that a tail can hold."""
        return self.tail_keys.shape[3]

    def widen(self, tokens: int) -> None:
        """Make room for `tokens` more in every tail; what they hold stays."""
        more = self.tail_keys.new_empty((*self.tail_keys.shape[:3], tokens, self.tail_keys.shape[4]))
        self.tail_keys = torch.cat((self.tail_keys, more), dim=3)
        self.tail_values = torch.cat((self.tail_values, more), dim=3)

    @property
    def num_chunks(self) -> int:
        """Chunks in the group."""
        return self.block.num_chunks

    @property
    def chunk_len(self) -> int:
        """Tokens of each chunk."""
        return self.block.chunk_len

    @property
    def span(self) -> slice:
        """The group's chunks among all chunks."""
        return slice(self.first, self.first + self.num_chunks)


@dataclass(slots=True)
class LocalContext:
    """KV that the local rows attend to: k slots for the candidates of the step, then the local tokens.

    Attributes:
        keys, values: [num_layers, num_kv_heads, num_candidates + room, head_dim].
        num_candidates: k, the number of chunks.
        length: local tokens held so far.
    """

    keys: Tensor
    values: Tensor
    num_candidates: int
    length: int = 0

    @classmethod
    def empty(cls, group: ChunkGroup, num_candidates: int, room: int) -> LocalContext:
        """Room for `room` local tokens, in the dtype and on the device of `group`."""
        like = group.tail_keys
        num_layers, _, num_kv_heads, _, head_dim = like.shape
        shape = (num_layers, num_kv_heads, num_candidates + room, head_dim)
        return cls(like.new_empty(shape), like.new_empty(shape), num_candidates)

    def emptied(self, room: int) -> LocalContext:
        """The same candidates in front of room for `room` local tokens, of which there are none yet."""
        num_layers, num_kv_heads, _, head_dim = self.keys.shape
        shape = (num_layers, num_kv_heads, self.num_candidates + room, head_dim)
        other = LocalContext(self.keys.new_empty(shape), self.values.new_empty(shape), self.num_candidates)
        other.keys[:, :, : self.num_candidates] = self.keys[:, :, : self.num_candidates]
        other.values[:, :, : self.num_candidates] = self.values[:, :, : self.num_candidates]
        return other


@dataclass(frozen=True, slots=True)
class CandidateQueries:
    """What the candidates of a sweep asked in one layer.

    Attributes:
        queries: scaled, float32 [num_heads, num_candidates, head_dim].
        keys: their own, at their places behind the chunks, [num_kv_heads, num_candidates, head_dim].
        window: of the layer.
        question: what the question's rows asked in the heads that are followed, scaled, float32 [num_candidates, heads,
            rows, head_dim].
    """

    queries: Tensor
    keys: Tensor
    window: int | None
    question: Tensor | None = None


@dataclass(slots=True)
class Sweep:
    """The layout of one sweep (an `AttentionLayout`).

    Attributes:
        groups: the chunks that take part.
        tail_start: tokens already in every tail.
        num_ordinary: ordinary rows of each chunk; its candidate follows them.
        local: the local context; the candidates of the sweep are written into its slots.
        num_local: local rows, 0 when this sweep only makes candidates.
        sees_from: the first local row that sees the candidates.
        distances: for each group, how far its candidates' keys move to reach their local positions, int64 [chunks].
        asked: if a list is given, what the candidates ask is kept in it, layer by layer,
        question: and what these rows do.
    """

    groups: Sequence[ChunkGroup]
    tail_start: int
    num_ordinary: int
    local: LocalContext
    num_local: int
    sees_from: int
    distances: Sequence[Tensor]
    rotary: Rotary
    kernel: AttentionKernel
    asked: list[CandidateQueries] | None = None
    question: QuestionRows | None = None
    _rotations: list[object] = field(init=False)
    #: Of the last local row in every layer, float32: its scaled query [num_heads, head_dim] and its lse [num_heads].
    _last_queries: list[Tensor] = field(default_factory=list)
    _last_lses: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rotations = [self.rotary.by(distance) for distance in self.distances]

    @property
    def num_candidates(self) -> int:
        """Candidates made by this sweep."""
        return sum(group.num_chunks for group in self.groups)

    @property
    def candidate_mass(self) -> Tensor:
        """Attention that the last local row gave each candidate, float32 [num_candidates].

        Mean over heads, sum over layers; taken once for all layers, after the sweep.
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
        asked = self.take_in(layer, query, key, value)
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
            for group, rows in zip(self.groups, asked, strict=True)
        ]
        return self.finish(layer, query, key, value, over, scaling, window)

    def tail(self, layer: int, group: ChunkGroup) -> tuple[Tensor, Tensor]:
        """Keys and values of a group's tail in one layer, with the newest rows' own."""
        stop = self.tail_start + self.num_ordinary + 1
        return group.tail_keys[layer, :, :, :stop], group.tail_values[layer, :, :, :stop]

    def over_tail(
        self, layer: int, group: ChunkGroup, rows: Tensor, scaling: float, window: int | None
    ) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp of a group's newest rows over their tails alone."""
        tail = self.tail(layer, group)
        return self.kernel(rows, *tail, scaling=scaling, query_start=self.tail_start, window=window)

    def take_in(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Store the new keys and values in tails and candidate slots.

        Returns:
            For each group, the queries of its rows, [num_chunks, num_heads, num_ordinary + 1, head_dim].
        """
        stop = self.tail_start + self.num_ordinary + 1
        asked = []
        for group, rows, rotation in zip(self.groups, self._spans(query.shape[2]), self._rotations, strict=True):
            # The candidate's own KV takes the slot that its ordinary KV will take one step later.
            group.tail_keys[layer, :, :, self.tail_start : stop] = self._by_chunk(key[0], rows, group.num_chunks)
            group.tail_values[layer, :, :, self.tail_start : stop] = self._by_chunk(value[0], rows, group.num_chunks)
            asked.append(self._by_chunk(query[0], rows, group.num_chunks))
            turned = rotate(key[0, :, rows[1]], self.rotary.of_layer(rotation, layer))  # type: ignore[arg-type]
            self.local.keys[layer, :, group.span] = turned
            self.local.values[layer, :, group.span] = value[0, :, rows[1]]
        return asked

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
        """Attention of the local rows, put together with that of all others: [1, rows, num_heads, head_dim].

        Args:
            over: for each group, the output of its rows over chunk and tail.
        """
        _, num_heads, num_rows, head_dim = query.shape
        output = query.new_empty((1, num_rows, num_heads, head_dim))
        for rows, found in zip(self._spans(num_rows), over, strict=True):
            # [num_chunks, num_heads, new, head_dim] -> [num_chunks, new, num_heads, head_dim]
            by_row = found.transpose(1, 2)
            output[0, rows[0]] = by_row[:, :-1].flatten(0, 1)
            output[0, rows[1]] = by_row[:, -1]
        candidate = num_rows - self.num_candidates
        if self.asked is not None:
            asked = query[0, :, candidate:].float() * scaling
            question = self._of_question(layer, query[0], scaling)
            self.asked.append(CandidateQueries(asked, key[0, :, candidate:].clone(), window, question))
        if self.num_local:
            local_rows = slice(candidate - self.num_local, candidate)
            self._attend_local(layer, local_rows, query, key, value, output, scaling, window)
        return output

    def _of_question(self, layer: int, query: Tensor, scaling: float) -> Tensor | None:
        """See `CandidateQueries.question`; `query` is [num_heads, rows, head_dim]."""
        heads = self.question.heads_of(layer) if self.question is not None else []
        if self.question is None or not heads:
            return None
        asked = [
            self._by_chunk(query[heads], rows, group.num_chunks)[:, :, self.question.first : self.question.last]
            for group, rows in zip(self.groups, self._spans(query.shape[1]), strict=True)
        ]
        return torch.cat(asked).float() * scaling

    def _spans(self, num_rows: int) -> list[tuple[slice, slice]]:
        """For each group, its ordinary rows and its candidate rows."""
        spans = []
        row, candidate = 0, num_rows - self.num_candidates
        for group in self.groups:
            ordinary = slice(row, row := row + group.num_chunks * self.num_ordinary)
            spans.append((ordinary, slice(candidate, candidate := candidate + group.num_chunks)))
        return spans

    def _by_chunk(self, states: Tensor, rows: tuple[slice, slice], num_chunks: int) -> Tensor:
        """Rows of states [heads, rows, head_dim] as [num_chunks, heads, num_ordinary + 1, head_dim]."""
        ordinary = torch.unflatten(states[:, rows[0]], 1, (num_chunks, self.num_ordinary))
        candidate = states[:, rows[1]].unsqueeze(2)
        return torch.cat((ordinary, candidate), dim=2).transpose(0, 1)

    def _attend_local(
        self,
        layer: int,
        rows: slice,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        output: Tensor,
        scaling: float,
        window: int | None,
    ) -> None:
        """Local rows over the local context, and those from `sees_from` on over the candidates too."""
        num_candidates = self.local.num_candidates
        keys, values = self.local.keys[layer][None], self.local.values[layer][None]
        begin = num_candidates + self.local.length
        keys[:, :, begin : begin + self.num_local] = key[:, :, rows]
        values[:, :, begin : begin + self.num_local] = value[:, :, rows]
        asked = query[:, :, rows]
        if self.sees_from:
            stop = begin + self.sees_from
            blind, _ = self.kernel(
                asked[:, :, : self.sees_from],
                keys[:, :, num_candidates:stop],
                values[:, :, num_candidates:stop],
                scaling=scaling,
                query_start=self.local.length,
                window=window,
            )
            output[:, rows][:, : self.sees_from] = blind.transpose(1, 2)
        stop = begin + self.num_local
        seeing, lse = self.kernel(
            asked[:, :, self.sees_from :],
            keys[:, :, :stop],
            values[:, :, :stop],
            scaling=scaling,
            query_start=begin + self.sees_from,
            window=window,
            prefix=num_candidates,
        )
        output[:, rows][:, self.sees_from :] = seeing.transpose(1, 2)
        self._last_queries.append(asked[0, :, -1].float() * scaling)
        self._last_lses.append(lse[0, :, -1])
