"""flash-attn's three functions in plain torch, from the meaning that its documentation gives them.

Strict where the real ones are (layouts, int32 bounds, last dimensions contiguous), and as untidy: the log-sum-exp does
not come contiguous, and a query that sees nothing has one of plus infinity. `calls` lists what was called.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

calls: list[tuple[str, dict[str, Any]]] = []


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:
    calls.append(("flash_attn_func", {"causal": causal, "window_size": window_size}))
    output, lse = _attend(q, k, v, softmax_scale, causal, window_size)
    return (output, lse, None) if return_attn_probs else output


def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    *,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    return_softmax_lse: bool = False,
) -> Any:
    assert k is None
    assert v is None
    assert k_cache.stride(-1) == 1
    assert v_cache.stride(-1) == 1
    calls.append(("flash_attn_with_kvcache", {"causal": causal, "window_size": window_size}))
    output, lse = _attend(q, k_cache, v_cache, softmax_scale, causal, window_size)
    return (output, lse) if return_softmax_lse else output


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
) -> Any:
    calls.append(("flash_attn_varlen_func", {"causal": causal, "window_size": window_size}))
    for bounds, rows, longest in ((cu_seqlens_q, q, max_seqlen_q), (cu_seqlens_k, k, max_seqlen_k)):
        assert bounds.dtype == torch.int32
        assert bounds[0] == 0
        assert bounds[-1] == rows.shape[0]
        assert int(bounds.diff().max()) <= longest
    found = [
        _attend(q[None, a:b], k[None, c:d], v[None, c:d], softmax_scale, causal, window_size)
        for a, b, c, d in zip(cu_seqlens_q, cu_seqlens_q[1:], cu_seqlens_k, cu_seqlens_k[1:], strict=False)
    ]
    output = torch.cat([rows[0] for rows, _ in found])
    # [num_heads, total], as of flash-attn 2.7
    lse = torch.cat([sums[0] for _, sums in found], dim=1)
    return (output, lse, None) if return_attn_probs else output


def _attend(
    q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None, causal: bool, window_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """[batch, length, heads, head_dim]; query i stands at key i + num_keys - num_queries."""
    _, num_queries, num_heads, head_dim = q.shape
    batch, num_keys, num_kv_heads, _ = k.shape
    assert q.shape[0] == batch
    assert v.shape == k.shape
    assert num_heads % num_kv_heads == 0
    left, right = window_size
    right = 0 if causal else right
    place = torch.arange(num_queries)[:, None] + num_keys - num_queries
    distance = torch.arange(num_keys)[None, :] - place
    seen = torch.ones_like(distance, dtype=torch.bool)
    if right >= 0:
        seen &= distance <= right
    if left >= 0:
        seen &= distance >= -left
    groups = num_heads // num_kv_heads
    scale = head_dim**-0.5 if softmax_scale is None else softmax_scale
    scores = torch.einsum("bqhd,bkhd->bhqk", q.float(), k.float().repeat_interleave(groups, dim=2)) * scale
    scores = scores.masked_fill(~seen, -torch.inf)
    lse = scores.logsumexp(dim=-1)
    weights = scores.softmax(dim=-1).nan_to_num(0.0)
    output = torch.einsum("bhqk,bkhd->bqhd", weights, v.float().repeat_interleave(groups, dim=2)).to(q.dtype)
    lse = lse.masked_fill(lse.isneginf(), torch.inf)
    return output, lse.transpose(1, 2).contiguous().transpose(1, 2)
