"""Streaming a memory in host RAM through a GPU: two buffers, one filled while the other is in use.

Copies run on a side stream. The next part is predicted to be the one that followed last time: every step over a
document uses the same parts in the same order, so from the second step on a copy is always in flight, even across
layers and steps. A wrong prediction costs one wasted copy.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from focusdoc.errors import MemoryShortageError
from focusdoc.memory.chunk_memory import MemoryBlock

#: Alignment of the tensors in a buffer, as of allocated ones.
ALIGNMENT = 256


class Streams:
    """The device's current stream, which computes, and a side stream, which copies; marks order them.

    The CPU has one stream: copies are done at once, and there is nothing to wait for.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._library: Any = torch.cuda if device.type == "cuda" else torch.cpu
        self._side = self._library.Stream(device)

    def pin(self, tensor: Tensor) -> None:
        """Pin `tensor` in RAM, so that it is copied to a GPU by DMA.

        Its own pages are registered, since torch's pinned allocator would round gigabytes up to a power of two.
        """
        if self.device.type != "cuda":
            return
        runtime, address = torch.cuda.cudart(), tensor.data_ptr()  # type: ignore[no-untyped-call]
        if error := int(runtime.cudaHostRegister(address, tensor.nbytes, 0)):
            raise MemoryShortageError(
                f"{tensor.nbytes:,} bytes of RAM cannot be pinned for {self.device} (CUDA error {error}); close other "
                "programs, ask a part of the document, or run on the CPU."
            )

        def unpin(side: Any = self._side) -> None:
            side.synchronize()
            runtime.cudaHostUnregister(address)

        weakref.finalize(tensor, unpin).atexit = False

    def allocate(self, num_bytes: int) -> Tensor:
        """Uint8 [num_bytes] on the device; its memory is not reused before pending copies into it are done."""
        room = torch.empty(num_bytes, dtype=torch.uint8, device=self.device)
        if self.device.type == "cuda":
            room.record_stream(self._side)
        return room

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy on the side stream; does not wait."""
        with self._library.stream(self._side):
            target.copy_(source, non_blocking=True)

    def mark_copied(self) -> Any:
        """A mark (a CUDA event) after the copies so far."""
        return self._side.record_event()

    def mark_computed(self) -> Any:
        """A mark after the computations so far."""
        return self._library.current_stream(self.device).record_event()

    def copy_after(self, mark: Any) -> None:
        """Make further copies wait for `mark`."""
        self._side.wait_event(mark)

    def compute_after(self, mark: Any) -> None:
        """Make further computations wait for `mark`."""
        self._library.current_stream(self.device).wait_event(mark)


class Part(NamedTuple):
    """One layer of chunks `start` to `stop` of the ring's block `number`."""

    number: int
    layer: int
    start: int
    stop: int


@dataclass(slots=True)
class _Buffer:
    """A buffer on the device, uint8 [bytes]: free after the mark `free`, filled at the mark `copied`.

    `held` is the part in it, None for none.
    """

    data: Tensor
    free: object
    copied: object = None
    held: tuple[Part, MemoryBlock] | None = None


class Ring:
    """The blocks of one document in RAM, and the two buffers that their parts are streamed through.

    Used inside `BaseModel.run`, whose lock serializes threads.
    """

    def __init__(self, streams: Streams) -> None:
        self.streams = streams
        self.blocks: list[MemoryBlock] = []
        self._buffers = [_Buffer(streams.allocate(0), streams.mark_computed()) for _ in range(2)]
        self._using = 0
        self._last: Part | None = None
        self._next_part: dict[Part, Part] = {}

    def add(self, block: MemoryBlock) -> int:
        """Take over a block in RAM; return its number. MemoryShortageError: its memory cannot be pinned."""
        for tensor in block.tensors().values():
            self.streams.pin(tensor)
        self.blocks.append(block)
        return len(self.blocks) - 1

    @contextmanager
    def use(self, part: Part) -> Iterator[MemoryBlock]:
        """`part` on the device, as a block of one layer, valid inside the context.

        First starts copying the part that is predicted to come next.
        """
        if self._last is not None:
            self._next_part[self._last] = part
        self._last = part
        held = self._buffers[self._using].held
        if held is None or held[0] != part:
            self._using = 1 - self._using
        buffer, other = self._buffers[self._using], self._buffers[1 - self._using]
        block = self._fetch(part, buffer)
        ahead = self._next_part.get(part)
        if ahead is not None and ahead != part:
            self._fetch(ahead, other)
        self.streams.compute_after(buffer.copied)
        try:
            yield block
        finally:
            buffer.free = self.streams.mark_computed()

    def _fetch(self, part: Part, buffer: _Buffer) -> MemoryBlock:
        """Copy `part` into `buffer`, unless it is there, after pending computations with the buffer."""
        if buffer.held is not None and buffer.held[0] == part:
            return buffer.held[1]
        buffer.held = None  # if copying fails, the contents are undefined
        source = self.blocks[part.number].piece(part.layer, part.start, part.stop)
        needed = sum(map(_aligned, source.tensors().values()))
        if buffer.data.nbytes < needed:
            buffer.data = self.streams.allocate(needed)
            buffer.free = self.streams.mark_computed()  # pending computations may use the memory's previous contents
        block = _block_view(buffer.data, source)
        self.streams.copy_after(buffer.free)
        for target, tensor in zip(block.tensors().values(), source.tensors().values(), strict=True):
            self.streams.copy(target, tensor)
        buffer.copied = self.streams.mark_copied()
        buffer.held = part, block
        return block


def _aligned(tensor: Tensor) -> int:
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT


def _block_view(data: Tensor, like: MemoryBlock) -> MemoryBlock:
    """A block with the kind, shapes and dtypes of `like`, whose tensors are views of `data`, uint8 [bytes]."""
    begin = 0
    views: list[Tensor] = []
    for tensor in like.tensors().values():
        views.append(data[begin : begin + tensor.nbytes].view(tensor.dtype).view(tensor.shape))
        begin += _aligned(tensor)
    return type(like)(*views)
