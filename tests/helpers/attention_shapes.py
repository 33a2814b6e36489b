"""The shapes that every attention implementation is compared with the naive one over."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Shape = tuple[int, int, int, int, int, int, int | None, int]

#: name: (batch, heads, KV heads, queries, keys, query_start, window, prefix)
SHAPES: dict[str, Shape] = {
    "reading a chunk": (2, 4, 2, 33, 33, 0, None, 0),
    "reading chunks of another length": (3, 6, 2, 64, 64, 0, None, 0),
    "reading with a window": (2, 4, 2, 33, 33, 0, 8, 0),
    "reading with a window longer than the chunk": (2, 4, 2, 33, 33, 0, 50, 0),
    "prompt over a chunk": (3, 6, 2, 7, 40, 40, None, 0),
    "prompt over a chunk with a window": (3, 6, 2, 7, 40, 40, 20, 0),
    "prompt over its own tail": (3, 6, 2, 7, 7, 0, None, 0),
    "two new tokens over a chunk": (3, 6, 2, 2, 40, 52, None, 0),
    "two new tokens over a tail": (3, 6, 2, 2, 12, 10, None, 0),
    "two new tokens over a long tail with a window": (3, 6, 2, 2, 80, 78, 24, 0),
    "one new token over a tail": (3, 6, 2, 1, 12, 11, None, 0),
    "one local token over candidates": (1, 6, 2, 1, 30, 29, None, 5),
    "local tokens over candidates": (1, 6, 2, 9, 20, 11, None, 11),
    "window that spares candidates": (1, 6, 2, 9, 40, 31, 6, 11),
    "chunk wholly out of the window": (2, 4, 4, 3, 16, 40, 8, 0),
    "chunk partly out of the window": (2, 4, 4, 3, 16, 18, 12, 0),
    "chunk out of the window for the last query": (2, 4, 4, 3, 16, 21, 8, 0),
    "keys that end between the queries": (2, 4, 2, 4, 10, 8, None, 0),
    "keys that end between the queries, with a window": (2, 4, 2, 4, 10, 8, 6, 0),
    "keys behind the last query": (2, 4, 2, 3, 20, 9, None, 0),
    "keys behind the last query, with a window": (2, 4, 2, 3, 20, 9, 4, 0),
    "no grouping": (2, 4, 4, 5, 16, 16, None, 0),
    "one KV head": (2, 4, 1, 5, 16, 11, None, 0),
    "two tokens over long chunks": (3, 6, 2, 2, 300, 300, None, 0),
    "one token over long chunks, no grouping": (2, 4, 4, 1, 513, 600, None, 0),
    "more rows than are streamed": (2, 18, 2, 2, 300, 300, None, 0),
}
TOLERANCE: dict[torch.dtype, dict[str, float]] = {
    torch.float32: {"atol": 2e-6, "rtol": 1e-5},
    torch.bfloat16: {"atol": 2e-2, "rtol": 2e-2},
    torch.float16: {"atol": 4e-3, "rtol": 4e-3},
}
#: For `biased` inputs: float32 itself holds scores of 600 to 6e-5.
BIASED = TOLERANCE | {torch.float32: {"atol": 2e-4, "rtol": 2e-4}}


def inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, head_dim: int = 16) -> tuple[Tensor, ...]:
    """Query, key and value of a shape, the same every time."""
    batch, heads, kv_heads, queries, keys = shape[:5]
    generator = torch.Generator().manual_seed(0)
    sizes = [(batch, heads, queries), (batch, kv_heads, keys), (batch, kv_heads, keys)]
    return tuple(torch.randn(*size, head_dim, generator=generator).to(dtype) for size in sizes)


def biased(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """The two with biases as large as those of Qwen2.5, so that scores are in the hundreds; in their dtype."""
    query, key = query.clone(), key.clone()
    query[..., 3] += 12
    key[..., 3] += 100
    query[..., 6] -= 8
    key[..., 6] += 60
    return query, key


def settings_of(shape: Shape) -> dict[str, Any]:
    """The keywords of an attention kernel for a shape."""
    *_, query_start, window, prefix = shape
    return {"scaling": 0.25, "query_start": query_start, "window": window, "prefix": prefix}


#: Rows behind a chunk and a tail: (batch, heads, KV heads, queries, keys of the chunk, of the tail, window).
TAILED: dict[str, tuple[int, int, int, int, int, int, int | None]] = {
    "two new tokens": (3, 6, 2, 2, 300, 12, None),
    "two new tokens, no grouping": (2, 4, 4, 2, 513, 40, None),
    "one new token": (3, 6, 2, 1, 300, 12, None),
    "the first token behind a chunk": (3, 6, 2, 1, 300, 1, None),
    "a short chunk": (3, 6, 2, 2, 40, 12, None),
    "a whole prompt": (2, 6, 2, 30, 300, 30, None),
    "more rows than are streamed": (2, 18, 2, 2, 300, 12, None),
    "a window that reaches into the chunk": (3, 6, 2, 2, 300, 12, 64),
    "a window shorter than the tail": (3, 6, 2, 2, 300, 40, 16),
}
