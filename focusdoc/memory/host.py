"""Chunk memory in host RAM, for documents that do not fit on the GPU: every layer is streamed through it in parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from focusdoc.attention import AttentionKernel
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.ring import Part, Ring

#: Bytes per copy: large enough for full bus bandwidth, small beside a GPU's memory.
PART_BYTES = 64 << 20


@dataclass(frozen=True, eq=False, slots=True)
class HostBlock(MemoryBlock):
    """A block of any kind that stays in host RAM, from chunk `first` on.

    Attributes:
        keys, values: the block's own, in RAM.
        ring: owns the block, and copies parts of it to the device.
        number: index of the block in the ring.
    """

    ring: Ring
    number: int
    first: int = 0
    ready: ClassVar[bool] = False

    @classmethod
    def wrap(cls, block: MemoryBlock, ring: Ring) -> HostBlock:
        """Hand `block`, which is in RAM, over to `ring`. MemoryShortageError: see `Ring.add`."""
        return cls(block.keys, block.values, ring, ring.add(block))

    @property
    def host_block(self) -> MemoryBlock:
        """The chunks in RAM, as a block of their own kind."""
        return self.ring.blocks[self.number].chunks(self.first, self.first + self.num_chunks)

    @property
    def device(self) -> torch.device:
        """See `MemoryBlock.device`."""
        return self.ring.streams.device

    def tensors(self) -> dict[str, Tensor]:
        """See `MemoryBlock.tensors`; in RAM."""
        return self.host_block.tensors()

    def chunks(self, start: int, stop: int) -> HostBlock:
        """See `MemoryBlock.chunks`."""
        keys, values = self.keys[:, start:stop], self.values[:, start:stop]
        return HostBlock(keys, values, self.ring, self.number, self.first + start)

    def select(self, index: Tensor) -> HostBlock:
        """See `MemoryBlock.select`; the copy is in RAM too, with a ring of its own."""
        return HostBlock.wrap(self.host_block.select(index.cpu()), Ring(self.ring.streams))

    def to(self, device: torch.device) -> MemoryBlock:
        """See `MemoryBlock.to`."""
        return self.host_block.to(device)

    def put(self, layer: int, first: int, keys: Tensor, values: Tensor) -> None:
        """See `MemoryBlock.put`; writes to RAM."""
        self.host_block.put(layer, first, keys, values)

    def layer(self, layer: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """See `MemoryBlock.layer`; copied to the device."""
        parts: list[tuple[Tensor, Tensor]] = []
        for part in self._parts(layer):
            with self.ring.use(part) as block:
                keys, values = block.layer(0, dtype)
                parts.append((keys.clone(), values.clone()))  # the buffer will be reused
        every_keys, every_values = zip(*parts, strict=True)
        return torch.cat(every_keys), torch.cat(every_values)

    def attend(
        self,
        layer: int,
        query: Tensor,
        *,
        kernel: AttentionKernel,
        scaling: float,
        query_start: int,
        window: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `MemoryBlock.attend`; part by part."""
        parts: list[tuple[Tensor, Tensor]] = []
        for part in self._parts(layer):
            rows = query[part.start - self.first : part.stop - self.first]
            with self.ring.use(part) as block:
                parts.append(
                    block.attend(0, rows, kernel=kernel, scaling=scaling, query_start=query_start, window=window)
                )
        outputs, lses = zip(*parts, strict=True)
        return torch.cat(outputs), torch.cat(lses)

    def _parts(self, layer: int) -> Iterator[Part]:
        of_chunk = self.num_bytes // (self.keys.shape[0] * self.num_chunks)
        step, stop = max(1, PART_BYTES // of_chunk), self.first + self.num_chunks
        for start in range(self.first, stop, step):
            yield Part(self.number, layer, start, min(start + step, stop))


def ring_bytes(of_chunk: int) -> int:
    """Bytes of a ring's buffers on the device; `of_chunk` is the size of a chunk in one layer."""
    return 2 * max(PART_BYTES, of_chunk)
