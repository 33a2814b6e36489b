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


@dataclass(frozen=True, slots=True)
class QuestionRows:
    """The rows of a dynamic prompt that hold the question, and the heads whose looks are kept for them.

    Attributes:
        first, last: the question is ``prompt_ids[first:last]``.
        heads: (layer, head) pairs of the base model's retrieval heads (arXiv 2404.15574), in order.
    """

    first: int
    last: int
    heads: tuple[tuple[int, int], ...] = ()

    def heads_of(self, layer: int) -> list[int]:
        """The heads of a layer that are followed."""
        return [head for of, head in self.heads if of == layer]


def question_rows(
    prompt_ids: Sequence[int], question_ids: Sequence[int], heads: tuple[tuple[int, int], ...]
) -> QuestionRows:
    """The last rows of a prompt that hold a question's tokens; all of them where it does not hold those as they are."""
    length, asked = len(question_ids), list(question_ids)
    for first in range(len(prompt_ids) - length, -1, -1):
        if length and list(prompt_ids[first : first + length]) == asked:
            return QuestionRows(first, first + length, heads)
    return QuestionRows(0, len(prompt_ids), heads)


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
