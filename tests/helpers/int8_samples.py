"""What int8 memories are held against: plain ones of the numbers that they stand for."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from focusdoc.memory.chunk_memory import MemoryBlock


def dequantized(blocks: Sequence[MemoryBlock], dtype: torch.dtype = torch.float32) -> tuple[MemoryBlock, ...]:
    """Plain blocks of the numbers that `blocks` stand for."""
    return tuple(
        MemoryBlock(
            *(
                torch.stack(states)
                for states in zip(*(block.layer(layer, dtype) for layer in range(len(block.keys))), strict=True)
            )
        )
        for block in blocks
    )
