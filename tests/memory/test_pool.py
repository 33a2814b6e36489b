"""Memories kept in RAM: found by their text, the oldest gone first."""

from __future__ import annotations

import torch

from focusdoc.memory.chunk_memory import DocumentMemory, MemoryBlock
from focusdoc.memory.pool import MemoryPool


def memory(tokens: int = 10) -> DocumentMemory:
    """One of 640 bytes, or of 64 a token."""
    block = MemoryBlock.empty((1, 1, 1, tokens, 8), torch.float32, torch.device("cpu"))
    return DocumentMemory((0,) * tokens, (), (block,), "maker")


def test_a_memory_is_found_by_its_text_alone() -> None:
    pool, kept = MemoryPool(10_000), memory()
    pool.keep("one text", kept)
    assert pool.find("one text") is kept
    assert pool.find("one") is None
    assert pool.num_bytes == 640


def test_the_longest_known_beginning() -> None:
    pool = MemoryPool(10_000)
    for text in ("one", "one text", "another"):
        pool.keep(text, memory())
    assert pool.longest_prefix("one text and more") == "one text"
    assert pool.longest_prefix("text") is None


def test_the_memory_used_longest_ago_goes_first() -> None:
    pool = MemoryPool(2 * 640)
    pool.keep("a", memory())
    pool.keep("b", memory())
    assert pool.find("a") is not None
    pool.keep("c", memory())
    assert (pool.find("b"), len(pool)) == (None, 2)
    assert pool.find("a") is not None


def test_one_too_large_is_not_kept_and_evicts_no_other() -> None:
    pool = MemoryPool(700)
    pool.keep("a", memory())
    pool.keep("b", memory(11))
    assert (pool.find("b"), len(pool)) == (None, 1)
    pool.keep("a", memory(11))
    assert len(pool) == 0  # the older memory of the same text is not current


def test_clear() -> None:
    pool = MemoryPool(10_000)
    pool.keep("a", memory())
    pool.clear()
    assert len(pool) == 0
