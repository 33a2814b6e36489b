"""Reading with a store: what is known is opened, the rest is read, and all of it is stored."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from focusdoc.attention import AttentionKernel
from focusdoc.config import BlockDtype
from focusdoc.errors import ConfigError
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.entries import size_limit, store_folder
from focusdoc.memory.reading import Progress, read_chunks
from focusdoc.memory.room import check_memory_room
from focusdoc.memory.store import DocumentStore, KnownChunks
from focusdoc.modeling.base import BaseModel

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
        return DocumentStore(Path(store).expanduser(), limit)
    try:
        return DocumentStore(store_folder(), limit)
    except ConfigError as error:  # the cache cannot be written
        _log.warning("The document store is off: %s", error)
        return None


def maker_key(base: BaseModel, anchor: int = 0, memory_dtype: BlockDtype = "model") -> str:
    """Names everything besides the chunk size that shapes a chunk's KV.

    The fingerprint covers weights and configuration (RoPE among it). The context length is not in it, since most
    models do not compute with it; some kinds of RoPE do.
    """
    dtype = str(base.dtype).removeprefix("torch.")
    # An anchor is the document's own beginning, which the hashes of its tokens cover.
    anchored = f" anchor {anchor}" if anchor else ""
    kept = "" if memory_dtype == "model" else f" kept as {memory_dtype}"
    return f"{base.fingerprint} {dtype} context {base.context_length}{anchored}{kept}"


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
    anchor: int = 0,
    memory_dtype: BlockDtype = "model",
) -> tuple[tuple[MemoryBlock, ...], int]:
    """The memory of a document, from the store as far as it is known there, and then stored.

    Args:
        store: None reads everything and stores nothing.
        batch, progress: see `read_chunks`; known tokens count as read at once.
        document: its name, for ``focusdoc store list``.
        anchor: this many first tokens stand in front of every chunk while it is read.
        memory_dtype: what the blocks are kept in, and looked for.

    Returns:
        The blocks, their chunks in order (several of full chunks where a document grew), and how many tokens went
        through the model.

    Raises:
        MemoryShortageError: what must be read does not fit into memory.
    """
    total = len(token_ids)
    maker = maker_key(base, anchor, memory_dtype) if store is not None else ""
    known = store.find(token_ids, chunk_size, maker) if store is not None else KnownChunks()
    if progress is not None and known.num_tokens:
        progress(known.num_tokens, total)
    blocks = tuple(block.to(base.device) for block in known.blocks)
    if known.num_tokens == total:
        return blocks, 0

    def onward(done: int, _: int) -> None:
        if progress is not None:
            progress(known.num_tokens + done, total)

    rest = token_ids[known.num_tokens :]
    check_memory_room(base, len(rest), document)
    blocks += read_chunks(
        base,
        rest,
        chunk_size,
        kernel,
        batch=batch,
        progress=onward,
        anchor_ids=token_ids[:anchor],
        memory_dtype=memory_dtype,
    )
    if store is not None:
        store.save(token_ids, blocks, chunk_size, maker, known=known, document=document, model=base.name)
    return blocks, len(rest)
