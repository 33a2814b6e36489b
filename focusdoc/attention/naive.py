"""Reference attention: one plain softmax in fp32."""

from __future__ import annotations

import torch
from torch import Tensor


def visibility(
    num_queries: int,
    num_keys: int,
    *,
    query_start: int,
    window: int | None = None,
    prefix: int = 0,
    device: torch.device | None = None,
) -> Tensor | None:
    """Which keys each query may see; None if every query sees every key.

    Key j is visible to query i if ``j <= query_start + i`` and, in a layer with a sliding window, it is less than
    `window` positions back or among the first `prefix` keys (candidates stay visible outside the window).

    Args:
        query_start: position of the first query, as an index into the keys.

    Returns:
        Bool [num_queries, num_keys], or None.
    """
    all_before = num_keys - 1 <= query_start
    windowed = window is not None and query_start + num_queries - 1 - prefix >= window
    if all_before and not windowed:
        return None
    queries = query_start + torch.arange(num_queries, device=device)[:, None]
    keys = torch.arange(num_keys, device=device)[None, :]
    seen = keys <= queries
    if window is not None and windowed:
        seen &= (queries - keys < window) | (keys < prefix)
    return seen


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
    """Softmax attention of `query` over `key`/`value`, with the log-sum-exp needed to merge parts.

    Args:
        query: [batch, num_heads, num_queries, head_dim].
        key, value: [batch, num_kv_heads, num_keys, head_dim]; head h reads KV head h // (num_heads // num_kv_heads).
        scaling: factor applied to the scores, usually 1/sqrt(head_dim).
        query_start, window, prefix: see `visibility`.

    Returns:
        Output [batch, num_heads, num_queries, head_dim] in the query's dtype, and the natural log of the sum of
        exponentials [batch, num_heads, num_queries] in float32. A query that sees nothing gets 0 and -inf.
    """
    weights, lse = attention_weights(query, key, scaling=scaling, query_start=query_start, window=window, prefix=prefix)
    groups = query.shape[1] // value.shape[1]
    output = weights @ value.float().repeat_interleave(groups, dim=1)
    return output.to(query.dtype), lse


def attention_weights(
    query: Tensor, key: Tensor, *, scaling: float, query_start: int, window: int | None = None, prefix: int = 0
) -> tuple[Tensor, Tensor]:
    """The softmax weights [batch, num_heads, num_queries, num_keys] and the log-sum-exp, both float32."""
    groups = query.shape[1] // key.shape[1]
    scores = query.float() @ key.float().repeat_interleave(groups, dim=1).transpose(-1, -2) * scaling
    seen = visibility(
        query.shape[2], key.shape[2], query_start=query_start, window=window, prefix=prefix, device=query.device
    )
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    lse = scores.logsumexp(dim=-1)
    # A query that sees nothing has lse = -inf: its weights are 0, not exp(-inf + inf).
    weights = torch.exp(scores - lse.masked_fill(lse.isneginf(), 0.0).unsqueeze(-1))
    return weights, lse


def merge(output_a: Tensor, lse_a: Tensor, output_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over the union of two disjoint sets of keys, from the attention over each set.

    Exact and associative, so the keys may be split in any way.

    Args:
        output_a, output_b: [..., head_dim].
        lse_a, lse_b: [...], -inf for an empty set.

    Returns:
        Output in the dtype of `output_a`, and the joint log-sum-exp in float32.
    """
    lse = torch.logaddexp(lse_a.float(), lse_b.float())
    anchor = lse.masked_fill(lse.isneginf(), 0.0)
    share_a = torch.exp(lse_a.float() - anchor).unsqueeze(-1)
    share_b = torch.exp(lse_b.float() - anchor).unsqueeze(-1)
    output = output_a.float() * share_a + output_b.float() * share_b
    return output.to(output_a.dtype), lse


def blend(output_a: Tensor, lse_a: Tensor, output_b: Tensor, lse_b: Tensor) -> Tensor:
    """The output of `merge` in one pass, for rows that see at least one key.

    Args:
        output_a, output_b: [..., head_dim]. lse_a, lse_b: float32 [...].
    """
    share_b = torch.sigmoid(lse_b - lse_a)
    return torch.lerp(output_a, output_b, share_b.to(output_a.dtype).unsqueeze(-1))
