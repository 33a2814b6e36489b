"""A reader of documents: what the store knows is opened, the rest goes through the model, and all of it is stored."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import get_args

import torch

from focusdoc.attention import AttentionKernel
from focusdoc.config import BlockDtype, MemoryDtype
from focusdoc.errors import ConfigError, MemoryShortageError
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.entries import size_limit, spool_folder, store_folder
from focusdoc.memory.host import HostBlock, ring_of
from focusdoc.memory.int8 import BLOCKS
from focusdoc.memory.plan import MemoryPlan, Room, Wanted, plan_memory
from focusdoc.memory.reading import READING_VERSION, Progress, distinct_tokens, read_chunks
from focusdoc.memory.ring import Ring
from focusdoc.memory.segments import SegmentWriter, open_segment
from focusdoc.memory.store import DocumentStore, KnownChunks
from focusdoc.modeling.base import BaseModel
from focusdoc.modeling.dimensions import ModelSize
from focusdoc.modeling.size import CHUNK_TOKENS, estimate_seconds_per_token
from focusdoc.storage import expanded

#: Environment variable that turns the store off.
STORE_VARIABLE = "FOCUSDOC_STORE"
#: A reading of fewer tokens tells little about how fast the next one will be.
_TELLING = 1024
_log = logging.getLogger(__name__)


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


def open_store(store: DocumentStore | str | Path | None = "auto") -> DocumentStore | None:
    """The store that a setting names.

    Args:
        store: ``"auto"`` for the user's own, a folder, a store, or None for none. ``FOCUSDOC_STORE=off`` turns
            them all off.

    Raises:
        ConfigError: ``FOCUSDOC_STORE`` or ``FOCUSDOC_STORE_BYTES`` holds something else than they may.
    """
    switch = os.environ.get(STORE_VARIABLE, "").strip().lower()
    if switch not in ("", "on", "auto", "off"):
        raise ConfigError(f"{STORE_VARIABLE} is {switch!r}; set it to off, or leave it unset.")
    if store is None or switch == "off":
        return None
    if isinstance(store, DocumentStore):
        return store
    limit = size_limit()
    if store != "auto":
        return DocumentStore(expanded(store), limit)
    try:
        return DocumentStore(store_folder(), limit)
    except ConfigError as error:  # the cache cannot be written
        _log.warning("The document store is off: %s", error)
        return None


def maker_key(base: BaseModel, memory_dtype: MemoryDtype = "model") -> str:
    """Names everything besides the chunk size that shapes a chunk's KV, `READING_VERSION` for the code among it.

    The fingerprint covers weights and configuration (RoPE among it). The context length is not in it, since most
    models do not compute with it; some kinds of RoPE do.
    """
    dtype = str(base.dtype).removeprefix("torch.")
    layers = f" first {base.num_layers} layers" if base.is_part else ""
    kept = "" if memory_dtype == "model" else f" kept as {memory_dtype}"
    return f"reading {READING_VERSION} {base.fingerprint} {dtype} context {base.context_length}{layers}{kept}"


class DocumentReader:
    """Turns the tokens of documents into keys and values, once.

    Args:
        base: reads them; all of its layers are kept.
        store: None reads everything, stores nothing, and never plans a reading to the disk.
        batch: chunks in one pass.
        memory_dtype, tail_tokens: see `Wanted`.
    """

    def __init__(
        self,
        base: BaseModel,
        chunk_size: int,
        kernel: AttentionKernel,
        *,
        store: DocumentStore | None = None,
        batch: int = 2,
        memory_dtype: MemoryDtype = "auto",
        tail_tokens: int = 0,
    ) -> None:
        self.base = base
        self.chunk_size = chunk_size
        self._kernel = kernel
        self._store = store
        self._batch = batch
        self._memory_dtype = memory_dtype
        self._tail_tokens = tail_tokens
        #: Of the last reading that told; see `seconds_per_token`.
        self._seconds: float | None = None

    @property
    def maker(self) -> str:
        """Names everything that shapes a memory, for people: weights, dtype, layers, chunk size."""
        dtype = str(self.base.dtype).removeprefix("torch.")
        layers = f", first {self.base.num_layers} layers" if self.base.is_part else ""
        return f"{self.base.name} {self.base.fingerprint[:12]} {dtype}{layers}, chunks of {self.chunk_size}"

    def seconds_per_token(self) -> float:
        """What a token takes: as in the last reading, or before it an estimate from one layer."""
        if self._seconds is None:
            base = self.base
            size = ModelSize.of(base.config.to_dict(), base.name, str(base.dtype).removeprefix("torch."))
            chunk_size = min(self.chunk_size, CHUNK_TOKENS)
            # As short as can be: the reading that waits for it may be short too.
            whole = estimate_seconds_per_token(size, str(base.device), chunk_size=chunk_size, budget=0)
            self._seconds = whole * base.num_layers / size.num_layers
        return self._seconds

    def knows(self, token_ids: Sequence[int]) -> bool:
        """Whether the store has all of a document, as it would be kept where memory is not short."""
        kind: BlockDtype = "model" if self._memory_dtype == "auto" else self._memory_dtype
        return self._known(token_ids, kind).num_tokens == len(token_ids)

    def forget(self, token_ids: Sequence[int]) -> None:
        """Remove a document from the store."""
        if self._store is not None:
            for kind in get_args(BlockDtype):
                self._store.forget(token_ids, self.chunk_size, maker_key(self.base, kind))

    def plan(self, token_ids: Sequence[int]) -> MemoryPlan:
        """What reading a document will take; nothing is read."""
        return self._plan(token_ids)[0]

    def read(
        self,
        token_ids: Sequence[int],
        *,
        progress: Progress | None = None,
        document: str = "",
        on_plan: Callable[[MemoryPlan], None] | None = None,
    ) -> tuple[tuple[MemoryBlock, ...], int]:
        """The memory of a document, from the store as far as it is known there, and then stored.

        Args:
            progress: see `read_chunks`; known tokens count as read at once, and while another thread or process reads
                the same document nothing is.
            document: its name, for ``focusdoc store list``.
            on_plan: is given the plan before anything is read; None for the log.

        Returns:
            The blocks, their chunks in order (several of full chunks where a document grew), and how many tokens went
            through the model.

        Raises:
            MemoryShortageError: it fits neither into memory nor on the disk; nothing was read.
        """
        store, total = self._store, len(token_ids)

        def tell(done: int, _: int = 0) -> None:
            if progress is not None:
                progress(done, total)

        maker = maker_key(self.base, self._memory_dtype)
        alone = (
            store.only_reader(token_ids, self.chunk_size, maker, lambda: tell(0))
            if store is not None
            else nullcontext()
        )
        with alone:
            plan, known = self._plan(token_ids)
            plan.check(document)
            level = logging.WARNING if plan.is_forced and on_plan is None else logging.INFO
            _log.log(level, "Reading %s: %s.", document or "tokens", plan)
            if on_plan is not None:
                on_plan(plan)
            if plan.rung == "disk" and store is not None:
                return self._read_to_disk(store, token_ids, plan, document, tell), total
            if known.num_tokens:
                tell(known.num_tokens)
            ring = ring_of(self.base.device) if plan.rung == "host" else None
            blocks = tuple(
                block.to(self.base.device) if ring is None else HostBlock.around(block.clone(), ring)
                for block in known.blocks
            )
            if known.num_tokens < total:
                begun = time.perf_counter()
                blocks += self._encode(token_ids, known.num_tokens, plan, tell, ring)
                self._save(token_ids, blocks, plan, known, document, begun)
            return blocks, total - known.num_tokens

    def _read_to_disk(
        self, store: DocumentStore, token_ids: Sequence[int], plan: MemoryPlan, document: str, tell: Progress
    ) -> tuple[MemoryBlock, ...]:
        """Full chunks are written while they are read, and mapped."""
        begun = time.perf_counter()
        try:
            with read_into_file(
                store,
                self.base,
                token_ids,
                self.chunk_size,
                self._kernel,
                batch=self._batch,
                progress=tell,
                memory_dtype=plan.memory_dtype,
            ) as mapped:
                blocks = (*mapped.blocks, *self._encode(token_ids, mapped.num_tokens, plan, tell))
                self._save(token_ids, blocks, plan, mapped, document, begun)
        except OSError as error:
            raise MemoryShortageError(
                f"{document!r} does not fit into memory, and it cannot be written to {store.folder} "
                f"({error.strerror or error}); make room there, or set FOCUSDOC_CACHE to another folder."
            ) from error
        return blocks

    def _encode(
        self, token_ids: Sequence[int], start: int, plan: MemoryPlan, tell: Progress, ring: Ring | None = None
    ) -> tuple[MemoryBlock, ...]:
        """What the model makes of the tokens from `start` on."""
        return read_chunks(
            self.base,
            token_ids[start:],
            self.chunk_size,
            self._kernel,
            batch=self._batch,
            progress=lambda done, total: tell(start + done, total),
            memory_dtype=plan.memory_dtype,
            ring=ring,
        )

    def _save(
        self,
        token_ids: Sequence[int],
        blocks: Sequence[MemoryBlock],
        plan: MemoryPlan,
        known: KnownChunks,
        document: str,
        begun: float,
    ) -> None:
        num_read = distinct_tokens(token_ids[plan.num_known :], self.chunk_size)
        if num_read >= _TELLING:
            self._seconds = (time.perf_counter() - begun) / num_read
        if self._store is not None:
            maker, name = maker_key(self.base, plan.memory_dtype), self.base.name
            self._store.save(token_ids, blocks, self.chunk_size, maker, known=known, document=document, model=name)

    def _known(self, token_ids: Sequence[int], kind: BlockDtype) -> KnownChunks:
        if self._store is None:
            return KnownChunks()
        return self._store.find(token_ids, self.chunk_size, maker_key(self.base, kind))

    def _plan(self, token_ids: Sequence[int]) -> tuple[MemoryPlan, KnownChunks]:
        """The plan of a reading, and what the store knows of it."""
        base, found = self.base, dict[BlockDtype, KnownChunks]()

        def known(kind: BlockDtype) -> int:
            found[kind] = self._known(token_ids, kind)
            return found[kind].num_tokens

        wanted = Wanted(
            kv=base,
            dtype=base.dtype,
            num_tokens=len(token_ids),
            chunk_size=self.chunk_size,
            memory_dtype=self._memory_dtype,
            tail_tokens=self._tail_tokens,
        )
        room = Room.of(base.device, self._store.room if self._store is not None else None)
        plan = plan_memory(wanted, room, known=known, seconds_per_token=self.seconds_per_token)
        return plan, found.get(plan.memory_dtype, KnownChunks())
