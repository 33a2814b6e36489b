"""Parts of a memory on their way through a device: two buffers, one being filled while the other is computed with.

Copying runs on a line of work beside computing (a side stream of a CUDA GPU). Which part comes next is what came next
the last time: every step over a document asks for the same parts in the same order, so from the second step on a copy
is always under way, also from the last layer to the first of the next step. A wrong guess costs one copy for nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from focusdoc.errors import MemoryShortageError
from focusdoc.memory.chunk_memory import MemoryBlock

#: Where a tensor may begin in a buffer: a multiple of this, as allocated ones do.
ALIGNMENT = 256


class Lines(Protocol):
    """Two lines of work of a device, computing and copying; a mark tells how far a line has come."""

    @property
    def device(self) -> torch.device: ...  # noqa: D102
    def pin(self, tensor: Tensor) -> None: ...  # noqa: D102
    def room(self, num_bytes: int) -> Tensor: ...  # noqa: D102
    def copy(self, target: Tensor, source: Tensor) -> None: ...  # noqa: D102
    def mark_copied(self) -> object: ...  # noqa: D102
    def mark_computed(self) -> object: ...  # noqa: D102
    def copy_after(self, mark: Any) -> None: ...  # noqa: D102
    def compute_after(self, mark: Any) -> None: ...  # noqa: D102


class CudaLines:
    """Computing on the current stream of a GPU, copying on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def pin(self, tensor: Tensor) -> None:
        """Keep the pages of `tensor` where they are, so that they are copied without the processor's help.

        The tensor's own pages are registered: torch's pinned allocator would round gigabytes up to a power of two.
        """
        runtime, address = torch.cuda.cudart(), tensor.data_ptr()  # type: ignore[no-untyped-call]
        if error := int(runtime.cudaHostRegister(address, tensor.nbytes, 0)):
            raise MemoryShortageError(
                f"{tensor.nbytes:,} bytes of RAM cannot be pinned for {self.device} (CUDA error {error}); close other "
                "programs, ask a part of the document, or run on the CPU."
            )

        def unpin(side: torch.cuda.Stream = self._side) -> None:
            side.synchronize()
            runtime.cudaHostUnregister(address)

        weakref.finalize(tensor, unpin).atexit = False

    def room(self, num_bytes: int) -> Tensor:
        """Uint8 [num_bytes] on the GPU; freed, it is not given to anything else before it is copied into."""
        room = torch.empty(num_bytes, dtype=torch.uint8, device=self.device)
        room.record_stream(self._side)
        return room

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy on the side stream."""
        with torch.cuda.stream(self._side):
            target.copy_(source, non_blocking=True)

    def mark_copied(self) -> torch.cuda.Event:
        """How far copying has come."""
        return _mark(self._side)

    def mark_computed(self) -> torch.cuda.Event:
        """How far computing has come."""
        return _mark(torch.cuda.current_stream(self.device))

    def copy_after(self, mark: torch.cuda.Event) -> None:
        """Let further copies wait for `mark`."""
        self._side.wait_event(mark)

    def compute_after(self, mark: torch.cuda.Event) -> None:
        """Let further computing wait for `mark`."""
        torch.cuda.current_stream(self.device).wait_event(mark)


def _mark(stream: torch.cuda.Stream) -> torch.cuda.Event:
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(stream)
    return event


class OneLine:
    """Everything at once and in order, for devices that have one line of work, such as a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def pin(self, tensor: Tensor) -> None:
        """Nothing to do."""

    def room(self, num_bytes: int) -> Tensor:
        """Uint8 [num_bytes]."""
        return torch.empty(num_bytes, dtype=torch.uint8, device=self.device)

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy now."""
        target.copy_(source)

    def mark_copied(self) -> None:
        """All is done."""

    def mark_computed(self) -> None:
        """All is done."""

    def copy_after(self, mark: None) -> None:
        """All is done."""

    def compute_after(self, mark: None) -> None:
        """All is done."""


def lines_of(device: torch.device) -> Lines:
    """Those that `device` has."""
    return CudaLines(device) if device.type == "cuda" else OneLine(device)


class Part(NamedTuple):
    """One layer of chunks `start` to `stop` of the ring's block `number`."""

    number: int
    layer: int
    start: int
    stop: int


@dataclass(slots=True)
class _Buffer:
    """Room on the device, uint8 [bytes]; computing is done with it at the mark `free`, and it is filled at `copied`.

    What it holds is told by `held`, None for nothing.
    """

    room: Tensor
    free: object
    copied: object = None
    held: tuple[Part, MemoryBlock] | None = None


class Ring:
    """The blocks of one document in RAM, and the two buffers that their parts pass through.

    It is used inside `BaseModel.run`, whose lock keeps threads apart.

    Args:
        lines: copies, and puts copying and computing in order.
    """

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.blocks: list[MemoryBlock] = []
        self._buffers = [_Buffer(lines.room(0), lines.mark_computed()) for _ in range(2)]
        self._using = 0
        self._last: Part | None = None
        self._follows: dict[Part, Part] = {}

    def add(self, block: MemoryBlock) -> int:
        """Take in a block that lies in RAM; its number.

        Raises:
            MemoryShortageError: its bytes cannot be pinned.
        """
        for tensor in block.tensors().values():
            self.lines.pin(tensor)
        self.blocks.append(block)
        return len(self.blocks) - 1

    @contextmanager
    def use(self, part: Part) -> Iterator[MemoryBlock]:
        """`part` on the device, as a block of one layer, to be computed with until the context ends.

        The copy of the part that came next the last time is begun before this one is handed out.
        """
        if self._last is not None:
            self._follows[self._last] = part
        self._last = part
        held = self._buffers[self._using].held
        if held is None or held[0] != part:
            self._using = 1 - self._using
        buffer, other = self._buffers[self._using], self._buffers[1 - self._using]
        block = self._fetch(part, buffer)
        ahead = self._follows.get(part)
        if ahead is not None and ahead != part:
            self._fetch(ahead, other)
        self.lines.compute_after(buffer.copied)
        try:
            yield block
        finally:
            buffer.free = self.lines.mark_computed()

    def _fetch(self, part: Part, buffer: _Buffer) -> MemoryBlock:
        """Have `part` copied into `buffer`, unless it is there, once nothing is computed with the buffer any more."""
        if buffer.held is not None and buffer.held[0] == part:
            return buffer.held[1]
        buffer.held = None  # should copying fail, what was begun is not taken for a part
        source = self.blocks[part.number].piece(part.layer, part.start, part.stop)
        needed = sum(map(_aligned, source.tensors().values()))
        if buffer.room.nbytes < needed:
            buffer.room = self.lines.room(needed)
            buffer.free = self.lines.mark_computed()  # its bytes may have been something else's until now
        block = _laid_out(buffer.room, source)
        self.lines.copy_after(buffer.free)
        for target, tensor in zip(block.tensors().values(), source.tensors().values(), strict=True):
            self.lines.copy(target, tensor)
        buffer.copied = self.lines.mark_copied()
        buffer.held = part, block
        return block


def _aligned(tensor: Tensor) -> int:
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT


def _laid_out(room: Tensor, like: MemoryBlock) -> MemoryBlock:
    """A block of the kind, shapes and dtypes of `like` whose tensors are views of `room`, uint8 [bytes]."""
    begin = 0
    views: list[Tensor] = []
    for tensor in like.tensors().values():
        views.append(room[begin : begin + tensor.nbytes].view(tensor.dtype).view(tensor.shape))
        begin += _aligned(tensor)
    return type(like)(*views)
