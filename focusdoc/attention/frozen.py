"""Attention with gradients for the queries only; the chunks' keys and values are constants.

In training the chunks' KV is frozen, so the backward pass needs no gradients of keys and values. The softmax weights of
the forward pass are recomputed from the log-sum-exp, as in flash attention's backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from focusdoc.attention.interface import AttentionKernel
from focusdoc.attention.naive import visibility
from focusdoc.attention.scores import scaled_product, shifted_scores


class _FrozenAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kernel: AttentionKernel,
        scaling: float,
        query_start: int,
        window: int | None,
    ) -> tuple[Tensor, Tensor]:
        output, lse = kernel(query, key, value, scaling=scaling, query_start=query_start, window=window)
        ctx.save_for_backward(query, key, value, output, lse)
        ctx.scaling, ctx.query_start, ctx.window = scaling, query_start, window
        return output, lse

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        grad_output, grad_lse = gradients
        query, key, value, output, lse = ctx.saved_tensors
        batch, num_kv_heads, num_keys, _ = key.shape
        num_queries = query.shape[2]

        def rows(states: Tensor) -> Tensor:
            # [batch, num_heads, num_queries, ...] -> [batch, num_kv_heads, heads per KV head * num_queries, ...]
            return states.reshape(batch, num_kv_heads, -1, *states.shape[3:])

        seen = visibility(num_queries, num_keys, query_start=ctx.query_start, window=ctx.window, device=query.device)
        # In place from here on: the [rows, keys] scores dominate this pass's memory traffic.
        anchor = rows(lse.masked_fill(lse.isneginf(), 0.0)).unsqueeze(-1)
        offset = anchor.to(key.dtype)
        scores = scaled_product(rows(query).flatten(0, 1), key.flatten(0, 1), ctx.scaling, offset.flatten(0, 1))
        weights = scores.float().view(batch, num_kv_heads, -1, num_keys).add_(offset - anchor).exp_()
        if seen is not None:
            weights.mul_(seen.repeat(query.shape[1] // num_kv_heads, 1))
        # d score = weight * (d weight - sum(d output * output) + d lse)
        inner = (grad_output.float() * output.float()).sum(dim=-1)
        bias = rows(grad_lse.float() - inner).unsqueeze(-1)
        grad_scores = (rows(grad_output) @ value.transpose(-1, -2)).float().add_(bias).mul_(weights)
        grad_query = (grad_scores.to(key.dtype) @ key) * ctx.scaling
        return grad_query.reshape_as(query), None, None, None, None, None, None


def attend_frozen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    kernel: AttentionKernel,
    scaling: float,
    query_start: int,
    window: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`kernel`, differentiable in `query` through both output and log-sum-exp; key and value are constants."""
    output, lse = _FrozenAttention.apply(query, key, value, kernel, scaling, query_start, window)  # type: ignore[no-untyped-call]
    return output, lse


def masked_attention(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor, *, scaling: float
) -> tuple[Tensor, Tensor]:
    """Plain attention under an arbitrary mask, differentiable in all inputs.

    Args:
        query: [batch, num_heads, num_queries, head_dim].
        key, value: [batch, num_kv_heads, num_keys, head_dim].
        seen: bool [num_queries, num_keys], or [batch, num_queries, num_keys]; every query sees at least one key.

    Returns:
        Output [batch, num_heads, num_queries, head_dim] and float32 lse [batch, num_heads, num_queries].
    """
    batch, num_heads, num_queries, head_dim = query.shape
    num_kv_heads = key.shape[1]
    groups = num_heads // num_kv_heads
    bias = torch.zeros(seen.shape, dtype=query.dtype, device=query.device).masked_fill(~seen, -torch.inf)
    if seen.dim() == 2:
        bias = bias.repeat(groups, 1)
    else:  # [batch, num_queries, num_keys] -> [batch * num_kv_heads, groups * num_queries, num_keys]
        bias = bias.repeat(1, groups, 1).repeat_interleave(num_kv_heads, dim=0)
    # [batch, num_heads, num_queries, head_dim] -> [batch * num_kv_heads, groups * num_queries, head_dim]
    rows = query.reshape(batch * num_kv_heads, groups * num_queries, head_dim)
    rounded, shift = shifted_scores(rows, [key.flatten(0, 1)], scaling, bias)
    scores = rounded.float()
    lse = scores.logsumexp(dim=-1, keepdim=True)
    weights = torch.exp(scores - lse).to(value.dtype)
    if shift is not None:
        lse = lse + shift
    output = weights @ value.flatten(0, 1)
    return output.view(query.shape), lse.view(query.shape[:-1])
