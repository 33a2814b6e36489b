"""Reading with a store: what is known is opened, the rest is read, and all of it is stored."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from focusdoc.attention import AttentionKernel
from focusdoc.config import BlockDtype, MemoryDtype
from focusdoc.errors import ConfigError, MemoryShortageError
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.entries import size_limit, store_folder
from focusdoc.memory.host import HostBlock, ring_of
from focusdoc.memory.plan import MemoryPlan, plan_memory
from focusdoc.memory.reading import READING_VERSION, Progress, distinct_tokens, read_chunks
from focusdoc.memory.room import free_beside, free_bytes
from focusdoc.memory.speed import ReadingSpeed
from focusdoc.memory.spool import read_into_file
from focusdoc.memory.store import DocumentStore, KnownChunks
from focusdoc.modeling.base import BaseModel
from focusdoc.storage import expanded

#: Environment variable that turns the store off.
STORE_VARIABLE = "FOCUSDOC_STORE"

_log = logging.getLogger(__name__)


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


def plan_reading(
    store: DocumentStore | None,
    base: BaseModel,
    token_ids: Sequence[int],
    chunk_size: int,
    *,
    memory_dtype: MemoryDtype = "auto",
    tail_tokens: int = 0,
    speed: ReadingSpeed | None = None,
) -> tuple[MemoryPlan, KnownChunks]:
    """The plan of a reading, and what the store knows of it.

    Args:
        store: None plans a reading of everything, and never one to the disk.
        memory_dtype, tail_tokens: see `plan_memory`.
        speed: tells the seconds; without it they are 0.
    """
    found: dict[BlockDtype, KnownChunks] = {}

    def known(kind: BlockDtype) -> int:
        if store is not None:
            found[kind] = store.find(token_ids, chunk_size, maker_key(base, kind))
        return found[kind].num_tokens if kind in found else 0

    on_cpu = base.device.type == "cpu"
    plan = plan_memory(
        base,
        base.dtype,
        len(token_ids),
        chunk_size,
        free=free_bytes(base.device),
        memory_dtype=memory_dtype,
        tail_tokens=tail_tokens,
        beside=lambda: free_beside(base.device),
        disk=store.room if store is not None and on_cpu else None,
        known=known,
        maps=on_cpu,
        seconds_per_token=speed.seconds_per_token if speed is not None else None,
    )
    return plan, found.get(plan.memory_dtype, KnownChunks())


def read_through(
    store: DocumentStore | None,
    base: BaseModel,
    token_ids: Sequence[int],
    chunk_size: int,
    kernel: AttentionKernel,
    *,
    batch: int = 2,
    progress: Progress | None = None,
    document: str = "",
    memory_dtype: MemoryDtype = "auto",
    tail_tokens: int = 0,
    speed: ReadingSpeed | None = None,
    on_plan: Callable[[MemoryPlan], None] | None = None,
) -> tuple[tuple[MemoryBlock, ...], int]:
    """The memory of a document, from the store as far as it is known there, and then stored.

    Args:
        store: None reads everything and stores nothing.
        batch, progress: see `read_chunks`; known tokens count as read at once, and while another thread or process
            reads the same document nothing is.
        document: its name, for ``focusdoc store list``.
        memory_dtype, tail_tokens: see `plan_memory`.
        speed: tells how long it will take, and learns how long it took.
        on_plan: is given the plan before anything is read; None for the log.

    Returns:
        The blocks, their chunks in order (several of full chunks where a document grew), and how many tokens went
        through the model.

    Raises:
        MemoryShortageError: it fits neither into memory nor on the disk; nothing was read.
    """
    total = len(token_ids)

    def tell(done: int, _: int = 0) -> None:
        if progress is not None:
            progress(done, total)

    maker = maker_key(base, memory_dtype)
    with store.only_reader(token_ids, chunk_size, maker, lambda: tell(0)) if store is not None else nullcontext():
        plan, known = plan_reading(
            store,
            base,
            token_ids,
            chunk_size,
            memory_dtype=memory_dtype,
            tail_tokens=tail_tokens,
            speed=speed,
        )
        plan.check(document)
        level = logging.WARNING if plan.is_forced and on_plan is None else logging.INFO
        _log.log(level, "Reading %s: %s.", document or "tokens", plan)
        if on_plan is not None:
            on_plan(plan)

        begun = time.perf_counter()
        ring = ring_of(base.device) if plan.rung == "host" else None

        def read(start: int) -> tuple[MemoryBlock, ...]:
            return read_chunks(
                base,
                token_ids[start:],
                chunk_size,
                kernel,
                batch=batch,
                progress=lambda done, _: tell(start + done),
                memory_dtype=plan.memory_dtype,
                ring=ring,
            )

        def save(blocks: Sequence[MemoryBlock], known: KnownChunks) -> None:
            if speed is not None:
                speed.measured(distinct_tokens(token_ids[plan.num_known :], chunk_size), time.perf_counter() - begun)
            if store is not None:
                maker = maker_key(base, plan.memory_dtype)
                store.save(token_ids, blocks, chunk_size, maker, known=known, document=document, model=base.name)

        if plan.rung == "disk" and store is not None:
            try:
                with read_into_file(
                    store,
                    base,
                    token_ids,
                    chunk_size,
                    kernel,
                    batch=batch,
                    progress=tell,
                    memory_dtype=plan.memory_dtype,
                ) as mapped:
                    blocks = (*mapped.blocks, *read(mapped.num_tokens))
                    save(blocks, mapped)
            except OSError as error:
                raise MemoryShortageError(
                    f"{document!r} does not fit into memory, and it cannot be written to {store.folder} "
                    f"({error.strerror or error}); make room there, or set FOCUSDOC_CACHE to another folder."
                ) from error
            return blocks, total
        if known.num_tokens:
            tell(known.num_tokens)
        blocks = tuple(
            block.to(base.device) if ring is None else HostBlock.around(block.clone(), ring) for block in known.blocks
        )
        if known.num_tokens < total:
            blocks += read(known.num_tokens)
            save(blocks, known)
        return blocks, total - known.num_tokens
