"""Reading documents through the store: load the chunks it has, encode the rest, and store the result."""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import KW_ONLY, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Self, get_args

from focusdoc.attention import AttentionKernel
from focusdoc.config import BlockDtype, MemoryDtype
from focusdoc.errors import ConfigError, MemoryShortageError
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.entries import size_limit, spool_folder, store_folder
from focusdoc.memory.host import HostBlock
from focusdoc.memory.manifest import DocumentKey
from focusdoc.memory.plan import FreeSpace, MemoryPlan, plan_memory
from focusdoc.memory.reading import READING_VERSION, Progress, distinct_tokens, read_chunks
from focusdoc.memory.ring import Ring, Streams
from focusdoc.memory.segments import open_segment, write_segment
from focusdoc.memory.store import DocumentStore, KnownChunks
from focusdoc.modeling.base import BaseModel
from focusdoc.modeling.dimensions import ModelSize
from focusdoc.modeling.estimate import CHUNK_TOKENS, estimate_seconds_per_token
from focusdoc.storage import expanded

#: Environment variable that turns the store off.
STORE_VARIABLE = "FOCUSDOC_STORE"
#: Shorter readings are not representative of the reading speed.
_MIN_TIMED_TOKENS = 1024
_log = logging.getLogger(__name__)


def open_store(store: DocumentStore | str | Path | None = "auto") -> DocumentStore | None:
    """The store that a setting names.

    Args:
        store: ``"auto"`` for the user's cache, a folder, a store, or None for none. ``FOCUSDOC_STORE=off`` turns all
            of them off.

    Raises:
        ConfigError: ``FOCUSDOC_STORE`` or ``FOCUSDOC_STORE_BYTES`` has an invalid value.
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
    except ConfigError as error:  # the cache is not writable
        _log.warning("The document store is off: %s", error)
        return None


def maker_key(base: BaseModel, memory_dtype: MemoryDtype = "model") -> str:
    """Identifies everything but the chunk size that determines a chunk's KV, including the code (`READING_VERSION`).

    The fingerprint covers weights and configuration, including RoPE, but not the context length, which some kinds of
    RoPE depend on.
    """
    dtype = str(base.dtype).removeprefix("torch.")
    layers = f" first {base.num_layers} layers" if base.is_partial else ""
    kept = "" if memory_dtype == "model" else f" kept as {memory_dtype}"
    return f"reading {READING_VERSION} {base.fingerprint} {dtype} context {base.context_length}{layers}{kept}"


@dataclass(eq=False)
class DocumentReader:
    """Encodes documents into keys and values, each only once.

    Attributes:
        base: the model; the KV of all its layers is kept.
        store: None to read everything, store nothing, and never plan to use the disk.
        batch: chunks per pass.
        memory_dtype, tail_tokens: see `plan_memory`.
        whole: the reader with all layers of the model, if `base` has only the lower ones.
    """

    base: BaseModel
    chunk_size: int
    kernel: AttentionKernel
    _: KW_ONLY
    store: DocumentStore | None = None
    batch: int = 2
    memory_dtype: MemoryDtype = "auto"
    tail_tokens: int = 0
    whole: DocumentReader | None = None
    #: Seconds per token of the last representative reading.
    _seconds: float | None = field(default=None, init=False)

    @property
    def maker(self) -> str:
        """Identifies everything that determines a memory, in readable form: weights, dtype, layers, chunk size."""
        dtype = str(self.base.dtype).removeprefix("torch.")
        layers = f", first {self.base.num_layers} layers" if self.base.is_partial else ""
        return f"{self.base.name} {self.base.fingerprint[:12]} {dtype}{layers}, chunks of {self.chunk_size}"

    @property
    def readers(self) -> tuple[DocumentReader, ...]:
        """This reader and `whole`, whose documents have all that this one's have."""
        return (self,) if self.whole is None else (self, self.whole)

    def reader_for(self, token_ids: Sequence[int]) -> DocumentReader:
        """The reader for a document: `whole` if the store has all layers of it, else this one."""
        return self.whole if self.whole is not None and self.whole.is_stored(token_ids) else self

    def with_first_layers(self, num_layers: int) -> Self:
        """A reader for the first `num_layers` of the model only; itself if those are all."""
        lower = copy.copy(self)
        lower.base = self.base.first_layers(num_layers)
        lower.whole = self
        return lower if lower.base is not self.base else self

    def without_store(self) -> Self:
        """The same reader, which keeps nothing on disk."""
        other = copy.copy(self)
        other.store = None
        return other

    def seconds_per_token(self) -> float:
        """Seconds to read a token: as measured in the last reading, or else estimated from one layer."""
        if self._seconds is None:
            base = self.base
            size = ModelSize.of(base.config.to_dict(), base.name, str(base.dtype).removeprefix("torch."))
            chunk_size = min(self.chunk_size, CHUNK_TOKENS)
            # Time the layer only once: the reading that waits for the estimate may be short too.
            whole = estimate_seconds_per_token(size, str(base.device), chunk_size=chunk_size, budget=0)
            self._seconds = whole * base.num_layers / size.num_layers
        return self._seconds

    def is_stored(self, token_ids: Sequence[int]) -> bool:
        """Whether the store has the whole document, in the dtype used when memory is not short."""
        kind: BlockDtype = "model" if self.memory_dtype == "auto" else self.memory_dtype
        return self._num_stored(token_ids, kind) == len(token_ids)

    def forget(self, token_ids: Sequence[int]) -> None:
        """Remove a document from the store."""
        if self.store is not None:
            for kind in get_args(BlockDtype):
                self.store.forget(self._key(token_ids, kind))

    def plan(self, token_ids: Sequence[int]) -> MemoryPlan:
        """The cost of reading a document; reads nothing."""
        return self._plan(len(token_ids), partial(self._num_stored, token_ids))

    def read(
        self,
        token_ids: Sequence[int],
        *,
        progress: Progress | None = None,
        document: str = "",
        on_plan: Callable[[MemoryPlan], None] | None = None,
    ) -> tuple[tuple[MemoryBlock, ...], int]:
        """The memory of a document: loaded from the store as far as possible, the rest read and stored.

        Args:
            progress: see `read_chunks`; stored tokens count as read at once. Called with 0 while another thread or
                process reads the same document.
            document: its name, for ``focusdoc store list``.
            on_plan: called with the plan before anything is read; None logs it.

        Returns:
            The blocks, their chunks in order, and the number of tokens that went through the model.

        Raises:
            MemoryShortageError: the memory fits neither in free memory nor on disk; nothing was read.
        """

        def report(done: int, _: int = 0) -> None:
            if progress is not None:
                progress(done, len(token_ids))

        with ExitStack() as held:
            if self.store is not None:
                key = self._key(token_ids, self.memory_dtype)
                held.enter_context(self.store.reading_lock(key, waiting=lambda: report(0)))
            known_in = cache(partial(self._known, token_ids))
            plan = self._plan(len(token_ids), lambda kind: known_in(kind).num_tokens)
            plan.check(document)
            level = logging.WARNING if plan.is_forced and on_plan is None else logging.INFO
            _log.log(level, "Reading %s: %s.", document or "tokens", plan)
            if on_plan is not None:
                on_plan(plan)
            known = known_in(plan.memory_dtype)
            if plan.rung == "disk":
                known = held.enter_context(self._spooled(token_ids, plan, document, report))
            elif known.num_tokens:
                report(known.num_tokens)
            device = self.base.device
            ring = Ring(Streams(device)) if plan.rung == "host" else None
            blocks = tuple(
                block.to(device) if ring is None else HostBlock.wrap(block.clone(), ring) for block in known.blocks
            )
            num_read = len(token_ids) - (0 if known.spooled else known.num_tokens)
            if num_read:
                started_at = time.perf_counter()
                blocks += self._encode(token_ids, known.num_tokens, plan, report, ring)
                self._note_speed(token_ids[known.num_tokens :], started_at)
                if self.store is not None:
                    key = self._key(token_ids, plan.memory_dtype)
                    self.store.save(key, blocks, known, document=document, model=self.base.name)
            return blocks, num_read

    @contextmanager
    def _spooled(
        self, token_ids: Sequence[int], plan: MemoryPlan, document: str, report: Progress
    ) -> Iterator[KnownChunks]:
        """Read the full chunks straight into a file and map it.

        The file is removed behind the block, if it was not stored; its mapping stays.
        """
        assert self.store is not None  # else the plan has no disk
        size = self.chunk_size
        num_chunks = len(token_ids) // size
        started_at = time.perf_counter()

        def read() -> Iterator[MemoryBlock]:
            for start in range(0, num_chunks * size, self.batch * size):
                stop = min(start + self.batch * size, num_chunks * size)
                yield from self._encode(token_ids[:stop], start, plan, lambda done, total: None)
                report(stop, len(token_ids))

        try:
            with spool_folder(self.store.folder) as folder:
                segment = write_segment(folder / "chunks-0.safetensors", read(), num_chunks)
                self._note_speed(token_ids[: num_chunks * size], started_at)
                block = open_segment(folder / segment.file, segment)
                yield KnownChunks((block,), num_chunks * size, folder, (segment,), spooled=True)
        except OSError as error:
            raise MemoryShortageError(
                f"{document!r} does not fit into memory, and it cannot be written to {self.store.folder} "
                f"({error.strerror or error}); make room there, or set FOCUSDOC_CACHE to another folder."
            ) from error

    def _encode(
        self, token_ids: Sequence[int], start: int, plan: MemoryPlan, report: Progress, ring: Ring | None = None
    ) -> tuple[MemoryBlock, ...]:
        """Encode the tokens from `start` on."""
        return read_chunks(
            self.base,
            token_ids[start:],
            self.chunk_size,
            self.kernel,
            batch=self.batch,
            progress=lambda done, total: report(start + done, total),
            memory_dtype=plan.memory_dtype,
            ring=ring,
        )

    def _note_speed(self, token_ids: Sequence[int], started_at: float) -> None:
        """Take the speed from the reading of `token_ids`, which has just ended, if it was long enough."""
        num_read = distinct_tokens(token_ids, self.chunk_size)
        if num_read >= _MIN_TIMED_TOKENS:
            self._seconds = (time.perf_counter() - started_at) / num_read

    def _key(self, token_ids: Sequence[int], kind: MemoryDtype) -> DocumentKey:
        return DocumentKey(token_ids, self.chunk_size, maker_key(self.base, kind))

    def _known(self, token_ids: Sequence[int], kind: BlockDtype) -> KnownChunks:
        return KnownChunks() if self.store is None else self.store.find(self._key(token_ids, kind))

    def _num_stored(self, token_ids: Sequence[int], kind: BlockDtype) -> int:
        """How many leading tokens of a document the store has."""
        return self._known(token_ids, kind).num_tokens

    def _free_space(self) -> FreeSpace:
        """The space for a document's memory."""
        return FreeSpace.of(self.base.device, self.store)

    def _plan(self, num_tokens: int, known: Callable[[BlockDtype], int]) -> MemoryPlan:
        return plan_memory(
            self._free_space(),
            kv=self.base,
            num_tokens=num_tokens,
            chunk_size=self.chunk_size,
            memory_dtype=self.memory_dtype,
            tail_tokens=self.tail_tokens,
            known=known,
            seconds_per_token=self.seconds_per_token,
        )
