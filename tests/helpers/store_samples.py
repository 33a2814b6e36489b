"""What the document store is tried on: a short document, and ways to read, compare, change and damage."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from focusdoc.attention import attention_kernel
from focusdoc.memory import entries, manifest
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.library import DocumentReader
from focusdoc.memory.reading import read_chunks
from focusdoc.memory.store import DocumentStore
from focusdoc.modeling.base import BaseModel

SIZE = 16
KERNEL = attention_kernel("auto")
IDS = [3 + (7 * index * index + index) % 90 for index in range(90)]  # 5 full chunks and 10 tokens
NEW = [5, 6, 7]

Blocks = tuple[MemoryBlock, ...]


def read_through(
    store: DocumentStore | None, base: BaseModel, ids: Sequence[int], size: int = SIZE, **given: Any
) -> tuple[Blocks, int]:
    """Read a document with this store; the blocks and how many tokens were encoded."""
    settings = {name: given.pop(name) for name in ("memory_dtype", "batch", "tail_tokens") if name in given}
    return DocumentReader(base, size, KERNEL, store=store, **settings).read(ids, **given)


def read(folder: Path, base: BaseModel, ids: Sequence[int], size: int = SIZE, **limit: int) -> tuple[Blocks, int]:
    """Read with a store as a new process would see it; the blocks and how many tokens were encoded."""
    return read_through(DocumentStore(folder, **limit), base, list(ids), size, document="a book")


def chunks(blocks: Blocks) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of every chunk, however the chunks lie in blocks."""
    return [(block.keys[:, index], block.values[:, index]) for block in blocks for index in range(block.num_chunks)]


def assert_exact(found: Blocks, wanted: Blocks) -> None:
    assert len(chunks(found)) == len(chunks(wanted))
    for one, other in zip(chunks(found), chunks(wanted), strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def assert_fresh(found: Blocks, base: BaseModel, ids: Sequence[int], size: int = SIZE) -> None:
    """The chunks are those of a reading without a store; another batch may round otherwise in the last digits."""
    wanted = read_chunks(base, ids, size, KERNEL)
    assert [len(keys[0, 0]) for keys, _ in chunks(found)] == [len(keys[0, 0]) for keys, _ in chunks(wanted)]
    for one, other in zip(chunks(found), chunks(wanted), strict=True):
        torch.testing.assert_close(one[0], other[0], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(one[1], other[1], atol=1e-6, rtol=1e-5)


def only_entry(folder: Path) -> Path:
    (entry,) = entries.entry_folders(folder)
    return entry


def sign(entry: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest, and its checksum with it."""
    body = json.loads((entry / "manifest.json").read_text())["manifest"]
    change(body)
    text = json.dumps(body, separators=(",", ":"))
    signed = f'{{"checksum":"{manifest._sha256(text)}","manifest":{text}}}'
    (entry / "manifest.json").write_text(signed)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
