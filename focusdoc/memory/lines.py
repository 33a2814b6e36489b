"""Two lines of work of a device: computing, and copying beside it, with marks by which one waits for the other."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

import torch
from torch import Tensor

from focusdoc.errors import MemoryShortageError


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
