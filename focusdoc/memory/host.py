"""Chunk memory in RAM beside a GPU: what does not fit on the device passes through it, part by part, in every layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from focusdoc.attention import AttentionKernel
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.ring import Part, Ring, lines_of

#: Bytes of one layer that are copied at once: enough to be quick on the bus, and little beside what a GPU has.
PART_BYTES = 64 << 20


@dataclass(frozen=True, eq=False, slots=True)
class HostBlock(MemoryBlock):
    """Chunks from `first` on of a block of any kind that stays in RAM.

    Attributes:
        keys, values: the block's own, in RAM.
        ring: holds the block, and brings parts of it to the device.
        number: of the block in the ring.
    """

    ring: Ring
    number: int
    first: int = 0
    ready: ClassVar[bool] = False

    @classmethod
    def around(cls, block: MemoryBlock, ring: Ring) -> HostBlock:
        """`block`, which lies in RAM and is the ring's from now on.

        Raises:
            MemoryShortageError: see `Ring.add`.
        """
        return cls(block.keys, block.values, ring, ring.add(block))

    @property
    def kept(self) -> MemoryBlock:
        """The chunks in RAM, of the kind that they are."""
        return self.ring.blocks[self.number].chunks(self.first, self.first + self.num_chunks)

    @property
    def device(self) -> torch.device:
        """See `MemoryBlock.device`."""
        return self.ring.lines.device

    def tensors(self) -> dict[str, Tensor]:
        """See `MemoryBlock.tensors`; in RAM."""
        return self.kept.tensors()

    def chunks(self, start: int, stop: int) -> HostBlock:
        """See `MemoryBlock.chunks`."""
        keys, values = self.keys[:, start:stop], self.values[:, start:stop]
        return HostBlock(keys, values, self.ring, self.number, self.first + start)

    def select(self, index: Tensor) -> HostBlock:
        """See `MemoryBlock.select`; the copy is in RAM too, and passes through buffers of its own."""
        return HostBlock.around(self.kept.select(index.cpu()), Ring(self.ring.lines))

    def to(self, device: torch.device) -> MemoryBlock:
        """See `MemoryBlock.to`."""
        return self.kept.to(device)

    def put(self, layer: int, first: int, keys: Tensor, values: Tensor) -> None:
        """See `MemoryBlock.put`; they go straight to RAM."""
        self.kept.put(layer, first, keys, values)

    def layer(self, layer: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """See `MemoryBlock.layer`; a copy on the device."""
        found: list[tuple[Tensor, Tensor]] = []
        for part in self._parts(layer):
            with self.ring.use(part) as block:
                keys, values = block.layer(0, dtype)
                found.append((keys.clone(), values.clone()))  # the buffer will hold something else
        every_keys, every_values = zip(*found, strict=True)
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
        """See `MemoryBlock.attend`; part after part."""
        found: list[tuple[Tensor, Tensor]] = []
        for part in self._parts(layer):
            asked = query[part.start - self.first : part.stop - self.first]
            with self.ring.use(part) as block:
                found.append(
                    block.attend(0, asked, kernel=kernel, scaling=scaling, query_start=query_start, window=window)
                )
        outputs, lses = zip(*found, strict=True)
        return torch.cat(outputs), torch.cat(lses)

    def _parts(self, layer: int) -> Iterator[Part]:
        of_chunk = self.num_bytes // (self.keys.shape[0] * self.num_chunks)
        step, stop = max(1, PART_BYTES // of_chunk), self.first + self.num_chunks
        for start in range(self.first, stop, step):
            yield Part(self.number, layer, start, min(start + step, stop))


def ring_of(device: torch.device) -> Ring:
    """A ring of buffers on `device`, without blocks."""
    return Ring(lines_of(device))


def ring_bytes(of_chunk: int) -> int:
    """Bytes that a ring takes on the device, for chunks of so many bytes in one layer."""
    return 2 * max(PART_BYTES, of_chunk)
