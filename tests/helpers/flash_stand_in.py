"""flash-attn's two functions in plain torch, from the meaning that its documentation gives them.

Strict where the real ones are (layouts, last dimensions contiguous), and as untidy: the log-sum-exp does
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
