"""The plan of a reading: what it takes in bytes and seconds, told before any of it is done.

Where a document does not fit as the model computes it, the next rung of a ladder is taken: int8; then int8 in the RAM
beside a GPU, or, for a CPU, on the disk, from which it is mapped. What fits on none is refused: a sentence with numbers
beats a killed process.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from focusdoc.config import BlockDtype, MemoryDtype
from focusdoc.container import memory_left
from focusdoc.errors import MemoryShortageError
from focusdoc.memory.host import ring_bytes
from focusdoc.memory.int8 import BLOCKS
from focusdoc.terminal import in_bytes, in_time

#: Left free beside the memory, for the activations of reading and for whatever else runs.
SPARE_BYTES = 512 << 20
#: Where a memory will be: "store" for one that is on the disk already and only mapped, "memory" for RAM (or the GPU's
#: memory) as the model computes it, "int8" for the same in 8 bits, "host" for RAM beside the GPU that computes with it,
#: "disk" for one that is written to the disk while it is read, "none" for one that fits nowhere.
Rung = Literal["store", "memory", "int8", "host", "disk", "none"]
#: Tokens of a question with its template that room is kept for behind every chunk.
QUESTION_TOKENS = 128


def free_beside(device: torch.device) -> int | None:
    """Bytes of RAM that can be used beside a GPU's own memory; None where there is no GPU."""
    return free_bytes(torch.device("cpu")) if device.type == "cuda" else None


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be used on `device`: the RAM that this process may have, or the GPU's memory."""
    if device.type == "cuda":
        # What torch holds of the GPU without using it counts as free.
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    import psutil

    free, left = int(psutil.virtual_memory().available), memory_left()
    return free if left is None else min(free, left)


class KvSize(Protocol):
    """The dimensions of a model that the bytes of its keys and values follow from."""

    @property
    def num_layers(self) -> int: ...  # noqa: D102
    @property
    def num_kv_heads(self) -> int: ...  # noqa: D102
    @property
    def head_dim(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What a reading will take.

    Attributes:
        num_tokens, num_chunks: of the document.
        num_known: tokens that the store knows and that need not be read.
        memory_dtype: what keys and values will be kept in.
        rung: where they will be.
        bytes_needed: what must fit into free memory: keys and values, unless they are mapped from the disk or kept in
            RAM beside the GPU, and the tails of prompt and answer behind all chunks.
        bytes_free: of memory now; `SPARE_BYTES` of it are left free.
        bytes_as_computed: what would be needed if keys and values were kept as the model computes them.
        bytes_beside: keys and values that will be kept in RAM beside the GPU; else 0.
        bytes_free_beside: RAM that can be used beside the GPU; None without a GPU, or where it was not asked.
        bytes_on_disk: keys and values that will be written to the disk while reading; else 0.
        bytes_free_on_disk: what the store may take of the disk; None where there is none or it was not asked.
        seconds: to read what is not known.
        is_forced: memory was too short for what would have been taken first.
    """

    num_tokens: int
    num_chunks: int
    num_known: int
    memory_dtype: BlockDtype
    rung: Rung
    bytes_needed: int
    bytes_free: int
    bytes_as_computed: int
    bytes_beside: int = 0
    bytes_free_beside: int | None = None
    bytes_on_disk: int = 0
    bytes_free_on_disk: int | None = None
    seconds: float = 0.0
    is_forced: bool = False

    def __str__(self) -> str:
        """The plan in one line, such as "103,063 tokens, 2.2 GB of memory, about 80 s"."""
        kind = " in int8" if self.memory_dtype == "int8" else ""
        parts = [f"{self.num_tokens:,} tokens"]
        if self.rung == "disk":
            parts.append(f"{in_bytes(self.bytes_on_disk)} on the disk{kind}")
            kind = ""
        if self.rung == "host":
            parts.append(f"{in_bytes(self.bytes_beside)} of memory{kind}, kept in RAM beside the GPU")
            parts.append(f"{in_bytes(self.bytes_needed)} on it")
        else:
            parts.append(f"{in_bytes(self.bytes_needed)} of memory{kind}")
        usable = in_bytes(max(0, self.bytes_free - SPARE_BYTES))
        if self.rung == "none":
            return f"{', '.join(parts)}: more than the {usable} that can be used"
        parts.append("nothing to read" if self.num_known == self.num_tokens else f"about {in_time(self.seconds)}")
        why = f" ({in_bytes(self.bytes_as_computed)} would not fit into the {usable} that can be used)"
        return ", ".join(parts) + (why if self.is_forced else "")

    def check(self, document: str = "") -> None:
        """Raise MemoryShortageError if the memory fits nowhere; the message tells the bytes needed and free."""
        if self.rung != "none":
            return
        what = f"{document!r}" if document else "The document"
        most = max(0, self.bytes_free - SPARE_BYTES) * self.num_tokens // self.bytes_needed
        elsewhere = "there is no document store to map it from"
        if self.bytes_free_beside is not None:
            elsewhere = f"so are {self.bytes_free_beside:,} of RAM beside the GPU"
        elif self.bytes_free_on_disk is not None:
            elsewhere = f"the document store may take {self.bytes_free_on_disk:,} of the disk"
        kind = " in int8" if self.memory_dtype == "int8" else ""
        raise MemoryShortageError(
            f"{what} needs {self.bytes_needed:,} bytes of memory{kind} for its {self.num_tokens:,} tokens, but "
            f"{self.bytes_free:,} are free, and {elsewhere}; close other programs, or ask a part of at most {most:,} "
            "tokens."
        )


def memory_bytes(kv: KvSize, dtype: torch.dtype, kind: BlockDtype, num_tokens: int, chunk_size: int) -> int:
    """Bytes of the keys and values of `num_tokens` tokens in chunks, for a model that computes in `dtype`."""
    full, rest = divmod(num_tokens, chunk_size)
    return sum(
        BLOCKS[kind].bytes_of((kv.num_layers, count, kv.num_kv_heads, length, kv.head_dim), dtype)
        for count, length in ((full, chunk_size), (1, rest))
        if count and length
    )


@dataclass(frozen=True, kw_only=True)
class Room:
    """Where the memory of a document can go.

    Attributes:
        free: bytes of memory that can be used.
        beside: tells how many bytes of RAM are free beside a GPU; None where there is none.
        disk: tells how many bytes may go to the disk; None where nothing may.
        maps: what the store knows is mapped and takes no memory, as on a CPU; a GPU must hold it.
    """

    free: int
    beside: Callable[[], int | None] = lambda: None
    disk: Callable[[], int | None] = lambda: None
    maps: bool = True

    @classmethod
    def of(cls, device: torch.device, disk: Callable[[], int | None] | None) -> Room:
        """What a device has; what a GPU does not hold is never written to the disk."""
        on_cpu = device.type == "cpu"
        spool = disk if disk is not None and on_cpu else lambda: None
        return cls(free=free_bytes(device), beside=lambda: free_beside(device), disk=spool, maps=on_cpu)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be kept.

    Attributes:
        kv, dtype: of the model that computes it.
        memory_dtype: ``"auto"`` tries what the model computes, then int8; else only the one it names.
        tail_tokens: of prompt and answer behind every chunk.
    """

    kv: KvSize
    dtype: torch.dtype
    num_tokens: int
    chunk_size: int
    memory_dtype: MemoryDtype = "auto"
    tail_tokens: int = 0


def plan_memory(
    wanted: Wanted,
    room: Room,
    *,
    known: Callable[[BlockDtype], int] = lambda kind: 0,
    seconds_per_token: Callable[[], float] = lambda: 0.0,
) -> MemoryPlan:
    """The first rung that holds a document.

    Args:
        known: tells how many leading tokens the store knows of the document, kept in a dtype.
        seconds_per_token: how fast is read; asked only if something is to be read.
    """
    kv, dtype, num_tokens, chunk_size = wanted.kv, wanted.dtype, wanted.num_tokens, wanted.chunk_size
    num_chunks = math.ceil(num_tokens / chunk_size)
    tails = memory_bytes(kv, dtype, "model", num_chunks * wanted.tail_tokens, chunk_size)
    kinds: tuple[BlockDtype, ...] = ("model", "int8") if wanted.memory_dtype == "auto" else (wanted.memory_dtype,)

    def plan(rung: Rung, kind: BlockDtype, num_known: int, needed: int, **elsewhere: int | None) -> MemoryPlan:
        unread = num_tokens - num_known
        return MemoryPlan(
            num_tokens=num_tokens,
            num_chunks=num_chunks,
            num_known=num_known,
            memory_dtype=kind,
            rung=rung,
            bytes_needed=needed,
            bytes_free=room.free,
            bytes_as_computed=memory_bytes(kv, dtype, "model", num_tokens, chunk_size) + tails,
            seconds=unread * seconds_per_token() if unread else 0.0,
            is_forced=rung in ("host", "disk", "none") or kind != kinds[0],
            **elsewhere,  # type: ignore[arg-type]  # the bytes of other places
        )

    for kind in kinds:
        num_known = known(kind)
        held = num_tokens - num_known if room.maps else num_tokens
        needed = memory_bytes(kv, dtype, kind, held, chunk_size) + tails
        if needed + SPARE_BYTES <= room.free:
            in_ram: Rung = "memory" if kind == "model" else "int8"
            return plan("store" if num_known == num_tokens else in_ram, kind, num_known, needed)
    total = memory_bytes(kv, dtype, kind, num_tokens, chunk_size)
    left_beside = room.beside()
    passing = ring_bytes(memory_bytes(kv, dtype, kind, chunk_size, chunk_size) // kv.num_layers) + tails
    if left_beside is not None and total + SPARE_BYTES <= left_beside and passing + SPARE_BYTES <= room.free:
        return plan("host", kind, num_known, passing, bytes_beside=total, bytes_free_beside=left_beside)
    left_on_disk = room.disk()
    whole_chunks = num_tokens >= chunk_size  # only those are written while reading
    if whole_chunks and left_on_disk is not None and total <= left_on_disk and tails + SPARE_BYTES <= room.free:
        return plan("disk", kind, 0, tails, bytes_on_disk=total, bytes_free_on_disk=left_on_disk)
    return plan("none", kind, num_known, needed, bytes_free_beside=left_beside, bytes_free_on_disk=left_on_disk)
