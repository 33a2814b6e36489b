"""Attention on torch's fused kernels, using the log-sum-exp that they compute anyway.

The only entry points that return the log-sum-exp are ``aten._scaled_dot_product_flash_attention_for_cpu`` and, on CUDA,
``aten._scaled_dot_product_efficient_attention``. Both are private to torch, so `attend` falls back to
`focusdoc.attention.naive` if they are missing.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from focusdoc.attention import naive
from focusdoc.attention.scores import shifted_scores

_CPU_KERNEL: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_CUDA_KERNEL: Any = getattr(torch.ops.aten, "_scaled_dot_product_efficient_attention", None)

#: Query rows per block of `attend_causal`.
BLOCK_ROWS = 128
#: Scores computed at once, so that they fit in the CPU cache.
MAX_SCORES = 1 << 20
#: With fewer keys the fused kernel is as fast.
FEW_KEYS = 128
#: Rows per KV head up to which `_matmul_attention` is used: two tokens of up to 8 query heads.
FEW_ROWS = 16


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scaling: float,
    query_start: int,
    window: int | None = None,
    prefix: int = 0,
) -> tuple[Tensor, Tensor]:
    """See `focusdoc.attention.naive.attend`; equal to it up to rounding."""
    if not has_kernel(query.device):
        return naive.attend(query, key, value, scaling=scaling, query_start=query_start, window=window, prefix=prefix)
    batch, num_heads, num_queries, head_dim = query.shape
    num_kv_heads, num_keys = key.shape[1], key.shape[2]
    groups = num_heads // num_kv_heads
    windowed = window is not None and query_start + num_queries - 1 - prefix >= window
    if num_queries == num_keys and query_start == 0 and not windowed:
        return _fused(query, key, value, None, scaling, is_causal=True)
    sees_all, bias = _bias(num_queries, num_keys, query_start, window, prefix, groups, query.dtype, query.device)
    if not sees_all:
        # For a query that sees nothing the fused kernels return NaN, the naive form 0 and -inf.
        return naive.attend(query, key, value, scaling=scaling, query_start=query_start, window=window, prefix=prefix)
    # Fold the query heads of a KV head into rows, so that its keys are read once and never expanded.
    # [batch, num_heads, num_queries, head_dim] -> [batch, num_kv_heads, groups * num_queries, head_dim]
    rows = query.reshape(batch, num_kv_heads, groups * num_queries, head_dim)
    if bias is None and rows.shape[2] <= FEW_ROWS <= num_keys // 8 and _prefers_matmul(rows):
        output, lse = _matmul_attention(rows, key, value, scaling)
    else:
        output, lse = _fused(rows, key, value, bias, scaling, is_causal=False)
    return (
        output.reshape(batch, num_heads, num_queries, head_dim),
        lse.reshape(batch, num_heads, num_queries),
    )


def _prefers_matmul(query: Tensor) -> bool:
    """Whether two matmuls are faster for few rows: on CPU in bfloat16, where the fused kernel converts the keys."""
    return query.device.type == "cpu" and query.dtype == torch.bfloat16


def _prefers_matmul_always(query: Tensor) -> bool:
    """Whether matmuls are faster for many rows too: on CPUs without AMX."""
    return _prefers_matmul(query) and not _has_matrix_unit()


@cache
def _has_matrix_unit() -> bool:
    """Whether this CPU has AMX, which torch's fused kernel uses."""
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())


def _matmul_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """Attention of few rows over many keys as two matmuls on keys and values as stored, with a float32 softmax.

    Args:
        query: [batch, num_kv_heads, rows, head_dim].
    """
    rounded, shift = shifted_scores(query.flatten(0, 1), [key.flatten(0, 1)], scaling)
    scores = rounded.float()
    largest = scores.amax(dim=-1, keepdim=True)
    weights = scores.sub_(largest).exp_()
    total = weights.sum(dim=-1, keepdim=True)
    output = (weights.to(value.dtype) @ value.flatten(0, 1)).float() / total
    lse = largest + total.log()
    if shift is not None:
        lse += shift
    return output.to(query.dtype).view_as(query), lse.view(query.shape[:-1])


def prefers_joint_softmax(query: Tensor, first_keys: Tensor) -> bool:
    """Whether `attend_both` is faster than a fused kernel call per set of keys."""
    rows = query.shape[1] // first_keys.shape[1] * query.shape[2]
    return first_keys.shape[2] >= FEW_KEYS and (
        _prefers_matmul(query) if rows <= FEW_ROWS else _prefers_matmul_always(query)
    )


def attend_both(
    query: Tensor,
    first: tuple[Tensor, Tensor],
    second: tuple[Tensor, Tensor],
    *,
    scaling: float,
    query_start: int,
) -> Tensor:
    """`focusdoc.attention.attend_both` as one softmax over both sets, between plain matmuls.

    On CPU in bfloat16 this is faster than the fused kernel and makes a third of the calls, and call overhead dominates
    a decoding step.
    """
    batch, num_heads, num_queries, head_dim = query.shape
    num_kv_heads, num_first, num_second = first[0].shape[1], first[0].shape[2], second[0].shape[2]
    groups = num_heads // num_kv_heads
    _, bias = _bias(num_queries, num_second, query_start, None, 0, groups, query.dtype, query.device)
    # [batch, num_heads, num_queries, head_dim] -> [batch * num_kv_heads, groups * num_queries, head_dim]
    rows = query.reshape(batch * num_kv_heads, groups * num_queries, head_dim)
    (first_keys, first_values), (second_keys, second_values) = (
        (keys.flatten(0, 1), values.flatten(0, 1)) for keys, values in (first, second)
    )
    output = torch.empty_like(rows)
    step = max(1, MAX_SCORES // (rows.shape[1] * (num_first + num_second)))
    for start in range(0, len(rows), step):
        at = slice(start, start + step)
        scores, _ = shifted_scores(rows[at], [first_keys[at], second_keys[at]], scaling, bias)
        weights = scores.softmax(dim=-1)
        from_first = weights[..., :num_first] @ first_values[at]
        output[at] = torch.baddbmm(from_first, weights[..., num_first:], second_values[at])
    return output.view(batch, num_heads, num_queries, head_dim)


def prefers_blocks(query: Tensor) -> bool:
    """Whether this `attend_causal` is faster than the fused kernel."""
    return _prefers_matmul_always(query) and query.shape[2] >= 2 * BLOCK_ROWS


def attend_causal(query: Tensor, key: Tensor, value: Tensor, *, scaling: float) -> Tensor:
    """`focusdoc.attention.attend_causal` in blocks of rows: two matmuls each, over the keys up to the block's end.

    On CPU in bfloat16 without AMX, the fused kernel reaches a quarter of matmul speed; with AMX it is twice as fast as
    this.
    """
    batch, num_heads, length, head_dim = query.shape
    num_kv_heads = key.shape[1]
    # [batch, num_heads, length, head_dim] -> [batch, num_kv_heads, heads per KV head, length, head_dim]
    grouped = query.view(batch, num_kv_heads, -1, length, head_dim)
    output = torch.empty_like(grouped)
    # Causal mask of a diagonal block for all heads of a KV head: [heads per KV head, BLOCK_ROWS, BLOCK_ROWS].
    later = torch.full((grouped.shape[2], BLOCK_ROWS, BLOCK_ROWS), -torch.inf, dtype=query.dtype).triu_(1)
    for chunk in range(batch):  # one chunk at a time fits in the CPU cache
        for start in range(0, length, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, length)
            rows = grouped[chunk, :, :, start:stop].flatten(1, 2)
            seen = later[:, : stop - start, : stop - start].flatten(0, 1)
            scores, _ = shifted_scores(rows, [key[chunk, :, :stop]], scaling, seen)
            weights = scores.softmax(dim=-1)
            output[chunk, :, :, start:stop] = torch.unflatten(weights @ value[chunk, :, :stop], 1, (-1, stop - start))
    return output.view(batch, num_heads, length, head_dim)


@lru_cache(maxsize=8)
def _bias(
    num_queries: int,
    num_keys: int,
    query_start: int,
    window: int | None,
    prefix: int,
    groups: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[bool, Tensor | None]:
    """Whether every query sees a key, and the additive mask [groups * num_queries, num_keys], None for no mask.

    Cached, because all layers and groups of a sweep use the same few masks.
    """
    seen = naive.visibility(num_queries, num_keys, query_start=query_start, window=window, prefix=prefix, device=device)
    if seen is None:
        return True, None
    bias = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, -torch.inf)
    return bool(seen.any(dim=-1).all()), _aligned(bias.repeat(groups, 1))


def has_kernel(device: torch.device) -> bool:
    """Whether torch has a fused kernel for `device` that returns the log-sum-exp."""
    return {"cpu": _CPU_KERNEL, "cuda": _CUDA_KERNEL}.get(device.type) is not None


def _fused(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scaling: float, *, is_causal: bool
) -> tuple[Tensor, Tensor]:
    """One fused call; `bias` is [num_queries, num_keys] or None."""
    if query.device.type == "cpu":
        output, lse = _CPU_KERNEL(query, key, value, 0.0, is_causal, attn_mask=bias, scale=scaling)
        return output, lse.float()
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # this kernel does not support grouped heads; only causal passes get here with them
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    if bias is not None:
        bias = bias.expand(query.shape[0], query.shape[1], *bias.shape)
    output, lse, *_ = _CUDA_KERNEL(query, key, value, bias, True, 0.0, is_causal, scale=scaling)
    return output, lse[..., : query.shape[2]].float()


def _aligned(bias: Tensor) -> Tensor:
    """`bias` with rows starting at multiples of 8 elements, as the CUDA kernel requires."""
    columns = bias.shape[-1]
    padded = torch.nn.functional.pad(bias, (0, -columns % 8))
    return padded[..., :columns]
