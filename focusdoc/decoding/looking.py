"""What attention inside a chunk tells: the place that the retrieving heads look at, rather than where attention rests.

Averaged over heads, attention is mostly rest: on the first tokens of a text (attention sinks), whose values are small,
and a little of every head's on each frequent word. The few heads that retrieve put most of what they have on one place,
and take large values from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from focusdoc.attention import visibility
from focusdoc.decoding.state import ChunkGroup, QuestionRows
from focusdoc.decoding.sweep import CandidateQueries

#: The first tokens of a text draw attention whatever they say; what is paid to them counts as nothing.
SINK_TOKENS = 4
#: Tokens around one whose attention stands for the place it is in.
NEAR = 16


def gathered(weights: Tensor, values: Tensor) -> Tensor:
    """What single heads take from each token, times what the same head takes from the place around it.

    A head takes its attention times the length of the token's value, 1 for the mean of its chunk. One that takes 0.9
    from a place tells 81 times as much as one that takes 0.1 there, not 9 times.

    Args:
        weights: float32 [chunks, num_heads, rows, chunk_len].
        values: [chunks, num_kv_heads, chunk_len, head_dim].
    """
    lengths = torch.linalg.vector_norm(values, dim=-1, dtype=torch.float32)
    lengths = lengths / lengths.mean(dim=-1, keepdim=True)
    lengths[..., :SINK_TOKENS] = 0
    taken = weights * lengths.repeat_interleave(weights.shape[1] // values.shape[1], dim=1).unsqueeze(2)
    # [chunks, num_heads, rows, chunk_len] -> [all rows, 1, chunk_len]
    padded = functional.pad(taken, (NEAR // 2, NEAR - NEAR // 2 - 1)).flatten(0, 2).unsqueeze(1)
    around = functional.avg_pool1d(padded, NEAR, stride=1) * NEAR
    product: Tensor = taken * around.view_as(taken)
    return product


def taken_for_question(
    queries: Tensor, keys: Tensor, values: Tensor, *, query_start: int, window: int | None
) -> Tensor:
    """What heads take from each token of chunks for a question behind them: float32 [chunks, heads, chunk_len].

    `gathered`, summed over the question's rows.

    Args:
        queries: of the question's rows, scaled, float32 [chunks, heads, rows, head_dim].
        keys: float32 of chunk and tail up to the last row, [chunks, heads, chunk_len + tail_len, head_dim].
        values: of the chunk, [chunks, heads, chunk_len, head_dim].
        query_start: where the first row stands.
        window: of the layer.
    """
    scores = queries @ keys.mT
    seen = visibility(queries.shape[2], keys.shape[2], query_start=query_start, window=window, device=keys.device)
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    return gathered(scores.softmax(dim=-1)[..., : values.shape[2]], values).sum(dim=2)


@dataclass(frozen=True, slots=True)
class Looker:
    """A chunk to look into.

    Attributes:
        chunk: its index among all chunks.
        group: the chunk alone with its tail.
    """

    chunk: int
    group: ChunkGroup


def first_look(lookers: Sequence[Looker], asked: Sequence[Sequence[CandidateQueries]], tail_len: int) -> list[Tensor]:
    """How much the candidates of the first sweeps looked at each token of their chunk: one float32 [chunk_len] each.

    Args:
        asked: for each sweep, in the order of the chunks, what its candidates asked in every layer.
        tail_len: tokens of the dynamic prompt before the candidate.

    Returns:
        `gathered`, summed over heads and layers, in the order of `lookers`.
    """
    found: dict[int, Tensor] = {}
    for length in {looker.group.chunk_len for looker in lookers}:
        alike = [looker for looker in lookers if looker.group.chunk_len == length]
        looked = sum(_layer_look(alike, layer, rows, tail_len) for layer, rows in enumerate(zip(*asked, strict=True)))
        found |= zip((looker.chunk for looker in alike), looked, strict=True)  # type: ignore[arg-type]
    return [found[looker.chunk].cpu() for looker in lookers]


def question_look(
    lookers: Sequence[Looker], asked: Sequence[Sequence[CandidateQueries]], rows: QuestionRows
) -> list[Tensor]:
    """What the followed heads took for the question from each token of the chunks: float32 [heads, chunk_len] each.

    Args:
        asked: as for `first_look`, of sweeps that were told of `rows`.

    Returns:
        `gathered`, summed over the question's rows, in the order of `lookers`, the heads in that of ``rows.heads``.
    """
    layers = dict.fromkeys(layer for layer, _ in rows.heads)
    found: dict[int, Tensor] = {}
    for length in {looker.group.chunk_len for looker in lookers}:
        alike = [looker for looker in lookers if looker.group.chunk_len == length]
        looked = [_layer_question(alike, layer, [sweep[layer] for sweep in asked], rows) for layer in layers]
        found |= zip((looker.chunk for looker in alike), torch.cat(looked, dim=1), strict=True)
    return [found[looker.chunk].cpu() for looker in lookers]


def _layer_look(lookers: Sequence[Looker], layer: int, sweeps: Sequence[CandidateQueries], tail_len: int) -> Tensor:
    """The look of one layer into chunks of one length, float32 [lookers, chunk_len]."""
    chunks = [looker.chunk for looker in lookers]
    # [heads, all chunks, head_dim] -> [lookers, heads, head_dim]
    queries = torch.cat([rows.queries for rows in sweeps], dim=1)[:, chunks].transpose(0, 1)
    own = torch.cat([rows.keys for rows in sweeps], dim=1)[:, chunks].transpose(0, 1)
    keys, values = _stored(lookers, layer, tail_len, own.dtype, more=1)
    keys[:, :, -1] = own
    # [lookers, heads, head_dim] -> [lookers, num_kv_heads, heads per KV head, head_dim]
    scores = torch.unflatten(queries, 1, (own.shape[1], -1)) @ keys.mT
    num_keys = keys.shape[2]
    seen = visibility(1, num_keys, query_start=num_keys - 1, window=sweeps[0].window, device=own.device)
    if seen is not None:
        scores = scores.masked_fill(~seen[0], -torch.inf)
    weights = scores.softmax(dim=-1)[..., : values.shape[2]]
    # [lookers, num_kv_heads, heads per KV head, chunk_len] -> [lookers, heads, 1, chunk_len]
    return gathered(weights.flatten(1, 2).unsqueeze(2), values).sum(dim=(1, 2))


def _layer_question(
    lookers: Sequence[Looker], layer: int, sweeps: Sequence[CandidateQueries], rows: QuestionRows
) -> Tensor:
    """The look of one layer's followed heads into chunks of one length, float32 [lookers, heads, chunk_len]."""
    # [lookers, heads, rows, head_dim]
    queries = torch.cat([sweep.question for sweep in sweeps if sweep.question is not None])[
        [looker.chunk for looker in lookers]
    ]
    keys, values = _stored(lookers, layer, rows.last, sweeps[0].keys.dtype)
    per_key = sweeps[0].queries.shape[0] // keys.shape[1]
    of_heads = [head // per_key for head in rows.heads_of(layer)]
    keys, values = keys[:, of_heads], values[:, of_heads]
    start = values.shape[2] + rows.first
    return taken_for_question(queries, keys, values, query_start=start, window=sweeps[0].window)


def _stored(
    lookers: Sequence[Looker], layer: int, tail_len: int, dtype: torch.dtype, more: int = 0
) -> tuple[Tensor, Tensor]:
    """Float32 keys of chunks and tails, with room for `more`, and the values of the chunks.

    Returns:
        Both [lookers, num_kv_heads, tokens, head_dim].
    """
    group = lookers[0].group
    chunk_len, (num_kv_heads, _, head_dim) = group.chunk_len, group.tail_keys.shape[2:]
    shape = (len(lookers), num_kv_heads, chunk_len + tail_len + more, head_dim)
    keys = torch.empty(shape, device=group.tail_keys.device)
    values = group.tail_keys.new_empty((*shape[:2], chunk_len, head_dim))
    for row, looker in enumerate(lookers):
        stored_keys, stored_values = looker.group.block.layer(layer, dtype)
        keys[row, :, :chunk_len], values[row] = stored_keys[0], stored_values[0]
        keys[row, :, chunk_len : chunk_len + tail_len] = looker.group.tail_keys[layer, 0, :, :tail_len]
    return keys, values
