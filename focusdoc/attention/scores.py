"""Attention scores in bfloat16 without losing precision near the maximum.

Rounding a product to bfloat16 has a relative error of up to 1/512: an error of 4 for a score of 2,000, as the large
query and key biases of Qwen2.5 produce. So the maximum of each row is subtracted inside the matrix product, which
accumulates in float32, before rounding. Scores near the maximum become small numbers; those far below get no weight.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Up to this row maximum a plain product is precise enough: bfloat16 rounds by at most 1/32 there.
MAX_PLAIN_SCORE = 16.0


def scaled_product(rows: Tensor, keys: Tensor, scaling: float, offset: Tensor | None = None) -> Tensor:
    """``rows @ keys.mT * scaling - offset``, with a single rounding.

    Args:
        rows: [batch, rows, head_dim]. keys: [batch, num_keys, head_dim].
        offset: [batch, rows, 1] in the dtype of `rows`, or None for 0.

    Returns:
        [batch, rows, num_keys] in the dtype of `rows`.
    """
    if offset is None:
        return torch.baddbmm(rows.new_empty(1), rows, keys.mT, beta=0, alpha=scaling)
    return torch.baddbmm(offset, rows, keys.mT, beta=-1, alpha=scaling)


def shifted_scores(
    rows: Tensor, parts: Sequence[Tensor], scaling: float, bias: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Scores of `rows` against all `parts` of the keys, minus a per-row shift.

    Args:
        rows: [batch, rows, head_dim]. parts: consecutive keys, each [batch, num_keys, head_dim].
        bias: [rows, keys] or [batch, rows, keys], added to the scores of the last keys; every row must see a key.

    Returns:
        Scores [batch, rows, all keys] and the subtracted shift [batch, rows, 1], both in the dtype of `rows`; the shift
        is None if nothing was subtracted.
    """

    def scores(shift: Tensor | None) -> Tensor:
        found = [scaled_product(rows, keys, scaling, shift) for keys in parts]
        joined = found[0] if len(found) == 1 else torch.cat(found, dim=-1)
        if bias is not None:
            joined[..., joined.shape[-1] - bias.shape[-1] :] += bias
        return joined

    plain = scores(None)
    if rows.dtype not in (torch.bfloat16, torch.float16):
        return plain, None
    largest = plain.detach().amax(dim=-1, keepdim=True)
    if rows.device.type == "cpu" and largest.abs().amax() <= MAX_PLAIN_SCORE:  # on a GPU this would synchronize
        return plain, None
    return scores(largest), largest
