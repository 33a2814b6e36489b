"""Reading into a file: chunks are written to the store's disk as they are read, so that memory never holds them all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from focusdoc.attention import AttentionKernel
from focusdoc.config import BlockDtype
from focusdoc.memory.entries import spool_folder
from focusdoc.memory.int8 import BLOCKS
from focusdoc.memory.reading import Progress, read_chunks
from focusdoc.memory.segments import SegmentWriter, open_segment
from focusdoc.memory.store import DocumentStore, KnownChunks
from focusdoc.modeling.base import BaseModel


@contextmanager
def read_into_file(
    store: DocumentStore,
    base: BaseModel,
    token_ids: Sequence[int],
    chunk_size: int,
    kernel: AttentionKernel,
    *,
    batch: int,
    progress: Progress,
    memory_dtype: BlockDtype,
) -> Iterator[KnownChunks]:
    """Encode the full chunks of `token_ids`, `batch` at a time, into one file; yields them memory-mapped.

    The file is gone when the block ends, unless the block saves the chunks; what is mapped stays usable.

    Args:
        batch, progress, memory_dtype: see `read_chunks`.

    Raises:
        OSError: it cannot be written.
    """
    count = len(token_ids) // chunk_size
    shape = (base.num_layers, 0, base.num_kv_heads, chunk_size, base.head_dim)
    like = BLOCKS[memory_dtype].empty(shape, base.dtype, torch.device("cpu"))
    with spool_folder(store.folder) as folder:
        path = folder / "chunks-0.safetensors"
        with SegmentWriter(path, like, count) as writer:
            for start in range(0, count * chunk_size, batch * chunk_size):
                part = token_ids[start : min(start + batch * chunk_size, count * chunk_size)]
                (block,) = read_chunks(base, part, chunk_size, kernel, batch=batch, memory_dtype=memory_dtype)
                writer.write(block)
                progress(start + len(part), len(token_ids))
            segment = writer.segment()
        mapped = open_segment(path, segment)
        yield KnownChunks((mapped,), count * chunk_size, folder, (segment,), spooled=True)
