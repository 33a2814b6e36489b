"""Planning a reading: its bytes and seconds, before it starts.

If a document does not fit as computed, the plan falls back to the next rung of a ladder: int8, then host RAM beside a
GPU or, on a CPU, a memory-mapped file. If nothing fits, reading is refused with the numbers, instead of being killed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from focusdoc.config import BlockDtype, MemoryDtype
from focusdoc.container import memory_left
from focusdoc.errors import MemoryShortageError
from focusdoc.memory.host import ring_bytes
from focusdoc.memory.int8 import BLOCKS
from focusdoc.memory.store import DocumentStore
from focusdoc.terminal import in_bytes, in_time

if TYPE_CHECKING:
    from focusdoc.modeling.base import BaseModel
    from focusdoc.modeling.dimensions import ModelSize

#: Memory to leave free for the activations of reading and for other programs.
SPARE_BYTES = 512 << 20
#: Where a memory will be: "store" is on disk already and mapped; "memory" is RAM (or GPU memory), as computed; "int8"
#: the same in 8 bits; "host" RAM beside the GPU; "disk" a file, written while reading; "none" if it fits nowhere.
Rung = Literal["store", "memory", "int8", "host", "disk", "none"]
#: Length of a typical question with its template, for planning the tails behind the chunks.
QUESTION_TOKENS = 128


def free_bytes(device: torch.device) -> int:
    """Free bytes on `device`: RAM within this process's limits, or GPU memory."""
    if device.type == "cuda":
        # Memory that torch has reserved but not allocated counts as free.
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    import psutil

    free, left = int(psutil.virtual_memory().available), memory_left()
    return free if left is None else min(free, left)


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """The cost of reading a document.

    Attributes:
        num_tokens, num_chunks: of the document.
        num_known: tokens that are in the store and need not be read.
        memory_dtype: the dtype of keys and values.
        rung: where they will be.
        bytes_needed: what must fit in free memory: the tails of prompt and answer behind all chunks, and the keys and
            values, unless they are mapped from disk or kept in RAM beside the GPU.
        bytes_free: free memory; `SPARE_BYTES` of it are not used.
        bytes_as_computed: bytes needed with keys and values in the model's dtype.
        bytes_beside: keys and values to keep in RAM beside the GPU; else 0.
        bytes_free_beside: free RAM beside the GPU; None without a GPU, or if not checked.
        bytes_on_disk: keys and values to write to disk while reading; else 0.
        bytes_free_on_disk: bytes that the store may use on disk; None without a store, or if not checked.
        seconds: time to read the tokens that are not in the store.
        is_forced: whether memory was too short for the first choice.
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
        """Raise MemoryShortageError if the memory fits nowhere; the message gives the bytes needed and free."""
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


def memory_bytes(kv: BaseModel | ModelSize, kind: BlockDtype, num_tokens: int, chunk_size: int) -> int:
    """Bytes of the keys and values of `num_tokens` tokens in chunks; `kv` gives the dimensions and the dtype."""
    dtype = kv.dtype if isinstance(kv.dtype, torch.dtype) else getattr(torch, kv.dtype, torch.float32)
    full, rest = divmod(num_tokens, chunk_size)
    return sum(
        BLOCKS[kind].bytes_of((kv.num_layers, count, kv.num_kv_heads, length, kv.head_dim), dtype)
        for count, length in ((full, chunk_size), (1, rest))
        if count and length
    )


@dataclass(frozen=True, kw_only=True)
class FreeSpace:
    """The space available for a document's memory.

    Attributes:
        free: bytes of memory.
        host: returns the free bytes of RAM beside a GPU; None without a GPU.
        disk: returns the bytes that may be written to disk; None if nothing may.
        maps: whether stored chunks are mapped and take no memory, as on a CPU; a GPU must hold them.
    """

    free: int
    host: Callable[[], int | None] = lambda: None
    disk: Callable[[], int | None] = lambda: None
    maps: bool = True

    @classmethod
    def of(cls, device: torch.device, store: DocumentStore | None) -> FreeSpace:
        """The space of a device: a GPU has RAM beside it, and the CPU the disk of a store, if there is one."""
        on_cpu = device.type == "cpu"
        return cls(
            free=free_bytes(device),
            host=lambda: free_bytes(torch.device("cpu")) if device.type == "cuda" else None,
            disk=store.free_space if store is not None and on_cpu else lambda: None,
            maps=on_cpu,
        )


def plan_memory(
    space: FreeSpace,
    *,
    kv: BaseModel | ModelSize,
    num_tokens: int,
    chunk_size: int,
    memory_dtype: MemoryDtype = "auto",
    tail_tokens: int = 0,
    known: Callable[[BlockDtype], int] = lambda kind: 0,
    seconds_per_token: Callable[[], float] = lambda: 0.0,
) -> MemoryPlan:
    """The first rung that a document fits on.

    Args:
        kv: the model, or its dimensions.
        memory_dtype: ``"auto"`` tries the model's dtype, then int8; otherwise only the named one.
        tail_tokens: tokens of prompt and answer behind every chunk.
        known: returns how many leading tokens of the document the store has in a dtype.
        seconds_per_token: returns the reading speed; called only if there is something to read.
    """
    num_chunks = math.ceil(num_tokens / chunk_size)
    tails = memory_bytes(kv, "model", num_chunks * tail_tokens, chunk_size)
    kinds: tuple[BlockDtype, ...] = ("model", "int8") if memory_dtype == "auto" else (memory_dtype,)

    def plan(rung: Rung, kind: BlockDtype, num_known: int, needed: int, **places: Any) -> MemoryPlan:
        unread = num_tokens - num_known
        return MemoryPlan(
            num_tokens=num_tokens,
            num_chunks=num_chunks,
            num_known=num_known,
            memory_dtype=kind,
            rung=rung,
            bytes_needed=needed,
            bytes_free=space.free,
            bytes_as_computed=memory_bytes(kv, "model", num_tokens, chunk_size) + tails,
            seconds=unread * seconds_per_token() if unread else 0.0,
            is_forced=rung in ("host", "disk", "none") or kind != kinds[0],
            **places,
        )

    for kind in kinds:
        num_known = known(kind)
        held = num_tokens - num_known if space.maps else num_tokens
        needed = memory_bytes(kv, kind, held, chunk_size) + tails
        if not needed or needed + SPARE_BYTES <= space.free:
            in_ram: Rung = "memory" if kind == "model" else "int8"
            return plan("store" if num_known == num_tokens else in_ram, kind, num_known, needed)
    total = memory_bytes(kv, kind, num_tokens, chunk_size)
    left_beside = space.host()
    ring_and_tails = ring_bytes(memory_bytes(kv, kind, chunk_size, chunk_size) // kv.num_layers) + tails
    if left_beside is not None and total + SPARE_BYTES <= left_beside and ring_and_tails + SPARE_BYTES <= space.free:
        return plan("host", kind, num_known, ring_and_tails, bytes_beside=total, bytes_free_beside=left_beside)
    left_on_disk = space.disk()
    whole_chunks = num_tokens >= chunk_size  # only these are written while reading
    if whole_chunks and left_on_disk is not None and total <= left_on_disk and tails + SPARE_BYTES <= space.free:
        return plan("disk", kind, 0, tails, bytes_on_disk=total, bytes_free_on_disk=left_on_disk)
    return plan("none", kind, num_known, needed, bytes_free_beside=left_beside, bytes_free_on_disk=left_on_disk)
