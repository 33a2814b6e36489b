"""Scores in bfloat16 that are right where they count.

A product that is rounded to bfloat16 is off by up to 1/512 of itself: by 4 where a score is 2,000, as the large biases
of Qwen2.5's queries and keys make it. So the largest score of a row is taken off inside the product, whose sums are
float32, before it is rounded: scores near the largest become small numbers, and what is far below it has no weight.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Largest scores of a row up to which a plain product does: bfloat16 holds them to 1/32.
PLAIN = 16.0


def product(rows: Tensor, keys: Tensor, scaling: float, less: Tensor | None = None) -> Tensor:
    """``rows @ keys.mT * scaling - less``, rounded once.

    Args:
        rows: [batch, rows, head_dim]. keys: [batch, num_keys, head_dim].
        less: [batch, rows, 1] in the dtype of `rows`, or None for 0.

    Returns:
        [batch, rows, num_keys] in the dtype of `rows`.
    """
    if less is None:
        return torch.baddbmm(rows.new_empty(1), rows, keys.mT, beta=0, alpha=scaling)
    return torch.baddbmm(less, rows, keys.mT, beta=-1, alpha=scaling)


def shifted(
    rows: Tensor, parts: Sequence[Tensor], scaling: float, bias: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Scores of `rows` with all `parts` of the keys, less a shift.

    Args:
        rows: [batch, rows, head_dim]. parts: one behind the other, each [batch, num_keys, head_dim].
        bias: [rows, keys] or [batch, rows, keys], added to the scores of the last keys; every row sees some key.

    Returns:
        Scores [batch, rows, all keys], and the shift [batch, rows, 1] that is taken off them, both in the dtype of
        `rows`; None for no shift.
    """

    def scores(shift: Tensor | None) -> Tensor:
        found = [product(rows, keys, scaling, shift) for keys in parts]
        joined = found[0] if len(found) == 1 else torch.cat(found, dim=-1)
        if bias is not None:
            joined[..., joined.shape[-1] - bias.shape[-1] :] += bias
        return joined

    plain = scores(None)
    if rows.dtype not in (torch.bfloat16, torch.float16):
        return plain, None
    largest = plain.detach().amax(dim=-1, keepdim=True)
    if rows.device.type == "cpu" and largest.abs().amax() <= PLAIN:  # a GPU is not waited for
        return plain, None
    return scores(largest), largest
