"""Reading: encode every chunk of a document with the base model and keep its KV.

A chunk starts at position 0 and sees only itself (paper, section 3.1), so its KV depends neither on the question nor on
other chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from focusdoc.attention import AttentionKernel, attend_causal
from focusdoc.config import BlockDtype
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.host import HostBlock
from focusdoc.memory.int8 import BLOCKS
from focusdoc.memory.ring import Ring
from focusdoc.modeling.base import BaseModel

#: Increased when the KV computed for a chunk changes, so that stored memories are not reused after a bug fix.
#: 2: bfloat16 scores are shifted by their row's maximum; int8 keys have midpoints.
READING_VERSION = 2
#: Called with (tokens read, total tokens) after every pass.
Progress = Callable[[int, int], None]
_CPU = torch.device("cpu")


@dataclass(slots=True)
class ReadingLayout:
    """Chunks of one length as a batch, each causal on its own; stores keys and values layer by layer.

    The last layer's attention output is not needed, so it is not computed.
    """

    block: MemoryBlock
    first: int
    kernel: AttentionKernel

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        """Causal attention within each chunk; see `AttentionLayout`."""
        self.block.put(layer, self.first, key, value)
        if layer + 1 == self.block.keys.shape[0]:
            return torch.zeros_like(query).transpose(1, 2)
        output = attend_causal(self.kernel, query, key, value, scaling=scaling, window=window)
        return output.transpose(1, 2)


@torch.no_grad()
def read_chunks(
    base: BaseModel,
    token_ids: Sequence[int],
    chunk_size: int,
    kernel: AttentionKernel,
    *,
    batch: int = 2,
    progress: Progress = lambda done, total: None,
    memory_dtype: BlockDtype = "model",
    ring: Ring | None = None,
) -> tuple[MemoryBlock, ...]:
    """Encode `token_ids` in chunks of `chunk_size`; the last one may be shorter and is not padded.

    Chunks with identical tokens are encoded once and copied.

    Args:
        batch: chunks per pass.
        memory_dtype: the kind of blocks.
        ring: keeps the blocks in RAM beside the model's device; None to keep them on the device.

    Returns:
        A block [num_layers, num_full_chunks, num_kv_heads, chunk_size, head_dim] of the full chunks and one of the
        ragged chunk, as far as they exist.
    """
    tokens = torch.tensor(token_ids, dtype=torch.long)
    num_full = len(tokens) // chunk_size
    parts = [tokens[: num_full * chunk_size].view(num_full, chunk_size), tokens[num_full * chunk_size :].view(1, -1)]
    blocks: list[MemoryBlock] = []
    done = 0
    for part in parts:
        num_chunks, chunk_len = part.shape
        if num_chunks == 0 or chunk_len == 0:
            continue
        shape = (base.num_layers, num_chunks, base.num_kv_heads, chunk_len, base.head_dim)
        block: MemoryBlock = BLOCKS[memory_dtype].empty(shape, base.dtype, _CPU if ring is not None else base.device)
        if ring is not None:
            block = HostBlock.wrap(block, ring)
        positions = torch.arange(chunk_len, device=base.device)
        originals = _first_occurrences(part)
        for first, stop in _passes(originals, batch):
            chunks = part[first:stop].to(base.device)
            base.run_kv_only(chunks, positions.expand(len(chunks), -1), ReadingLayout(block, first, kernel))
            done += chunks.numel()
            progress(done, len(tokens))
        repeated = [(original, chunk) for chunk, original in enumerate(originals) if original != chunk]
        for original, chunk in repeated:
            block.copy_chunk(original, chunk)
        if repeated:
            done += len(repeated) * chunk_len
            progress(done, len(tokens))
        blocks.append(block)
    return tuple(blocks)


def distinct_tokens(token_ids: Sequence[int], chunk_size: int) -> int:
    """How many tokens of a document go through the model: those of all distinct chunks."""
    return sum(map(len, {tuple(token_ids[at : at + chunk_size]) for at in range(0, len(token_ids), chunk_size)}))


def _first_occurrences(chunks: Tensor) -> list[int]:
    """For each of `chunks` [num_chunks, chunk_len], the index of the first one with the same tokens."""
    seen: dict[bytes, int] = {}
    return [seen.setdefault(chunk.numpy().tobytes(), index) for index, chunk in enumerate(chunks)]


def _passes(originals: Sequence[int], batch: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most `batch` consecutive chunks that occur for the first time."""
    start = 0
    for index, original in enumerate([*originals, -1]):
        if original != index or index - start == batch:
            if index > start:
                yield start, index
            start = index if original == index else index + 1
