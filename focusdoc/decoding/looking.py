"""What attention inside a chunk tells: the place that the retrieving heads look at, rather than where attention rests.

Averaged over heads, attention is mostly rest: on the first tokens of a text (attention sinks), whose values are small,
and a little of every head's on each frequent word. The few heads that retrieve put most of what they have on one place,
and take large values from there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


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
