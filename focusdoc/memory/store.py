"""The document store: memories on disk, found by their tokens and their maker."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from focusdoc.errors import FocusdocError
from focusdoc.memory import entries
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    DamagedEntryError,
    DocumentKey,
    Manifest,
    Segment,
    check_segment,
    read_manifest,
)
from focusdoc.memory.segments import open_segment, write_segment
from focusdoc.storage import file_lock, put_in_place, sync_folder
from focusdoc.terminal import plain

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownChunks:
    """The leading chunks of a document that the store has.

    Attributes:
        blocks: their KV, memory-mapped.
        num_tokens: tokens covered: full chunks, or the whole document.
        entry: their folder; None if there are none.
        segments: the files that are used as a whole, for a longer version to share.
        spooled: whether the files belong to no entry yet.
    """

    blocks: tuple[MemoryBlock, ...] = ()
    num_tokens: int = 0
    entry: Path | None = None
    segments: tuple[Segment, ...] = ()
    spooled: bool = False


class DocumentStore:
    """Memories of documents in a folder, usable by any number of processes at once.

    A memory is found only for exactly the same tokens and maker, and its checksums are verified when a process first
    opens it. Unusable entries are removed. Failures while storing are not errors: they are logged once, and nothing
    more is stored.

    Args:
        folder: created on first use, for its owner only (mode 0700).
        max_bytes: the least recently used entries are evicted when the folder exceeds this, or half of the disk's free
            space.
    """

    def __init__(self, folder: Path, max_bytes: int = entries.DEFAULT_BYTES) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._off = False
        #: Files verified in this process: (device, inode, size, mtime).
        self._checked: set[tuple[int, int, int, int]] = set()

    def find(self, key: DocumentKey) -> KnownChunks:
        """The longest stored prefix of a document: all of it, or full chunks of a longer or shorter version."""
        candidates: list[tuple[int, Path, Manifest]] = []
        for path in entries.subfolders(self.folder / key.group):
            with _usable(path):
                manifest = read_manifest(path)
                if (manifest.maker, manifest.chunk_size) != (key.maker, key.chunk_size):
                    raise DamagedEntryError("made by another model or for another chunk size")
                if known := key.num_known(manifest):
                    candidates.append((known, path, manifest))
        for known, path, manifest in sorted(candidates, key=lambda candidate: candidate[0], reverse=True):
            with _usable(path):
                found = self._open(path, manifest, known)
                entries.mark_used(path)
                return found
        return KnownChunks()

    def forget(self, key: DocumentKey) -> None:
        """Remove the entry of exactly this document; processes that have mapped its files keep them."""
        path = self.folder / key.entry
        if path.exists():
            with entries.store_lock(self.folder):
                entries.remove_entry(path)

    def free_space(self) -> int | None:
        """Bytes available for spooling a document; None if the folder is not writable."""
        return entries.allowed_bytes(self.folder, self.max_bytes) if self._is_writable() else None

    @contextmanager
    def reading_lock(self, key: DocumentKey, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold a lock on a document while it is looked up, read and saved, so that only one process reads it.

        Without write access there is no lock.

        Args:
            waiting: called several times a second while another thread or process holds the lock; an exception it
                raises ends the waiting.
        """
        with ExitStack() as held:
            if self._is_writable():
                path = self.folder / entries.LOCKS_FOLDER / key.lock
                with suppress(OSError, NotImplementedError):  # a file system without locks
                    held.enter_context(file_lock(path, timeout=math.inf, waiting=waiting))
            yield

    def save(
        self, key: DocumentKey, blocks: Sequence[MemoryBlock], known: KnownChunks, *, document: str, model: str
    ) -> None:
        """Store the memory of a document, if that is possible.

        Args:
            blocks: all chunks of the document in order, those of `known` first.
            known: the result of `find`. Its files are shared, not copied, and the entry it came from is replaced if
                this one continues it.
            document, model: names for `focusdoc store list`.
        """
        if self._off:
            return
        try:
            self._make_folder()
            needed = sum(block.num_bytes for block in blocks)
            spooled = sum(segment.num_bytes for segment in known.segments) if known.spooled else 0
            allowed = entries.allowed_bytes(self.folder, self.max_bytes, spooled)
            if needed > allowed:
                _log.warning(
                    "The memory takes %s bytes and is not stored: the document store may take %s (its limit, %s, or "
                    "half of the free disk).",
                    f"{needed:,}",
                    f"{allowed:,}",
                    entries.BYTES_VARIABLE,
                )
                return
            target = self.folder / key.entry
            with entries.spool_folder(self.folder) as beside:
                fresh = beside / "entry"
                if not _exists(target):  # another process may have been first
                    _write_entry(fresh, key, blocks, known, document, model)
                # The files were written without the lock; it is only needed for renaming and evicting.
                with entries.store_lock(self.folder):
                    entries.remove_unfinished(self.folder)
                    if fresh.exists() and not _exists(target):
                        target.parent.mkdir(mode=0o700, exist_ok=True)
                        put_in_place(fresh, target)
                        _remove_continued(known, key, target)
                    entries.mark_used(target)
                    entries.evict(self.folder, allowed, keep=target)
        except FocusdocError as error:
            _log.warning("The memory of %s is not stored: %s", plain(document) or "a document", error)
        except (OSError, ValueError) as error:
            self._off = True
            _log.warning(
                "The document store is off: %s cannot be written (%s). Answers are not affected, but the document "
                "will be read again next time; make room, or set FOCUSDOC_CACHE to another folder.",
                self.folder,
                getattr(error, "strerror", None) or error,
            )

    def _open(self, path: Path, manifest: Manifest, num_tokens: int) -> KnownChunks:
        """The chunks of an entry that cover `num_tokens`, verified and mapped."""
        blocks: list[MemoryBlock] = []
        whole: list[Segment] = []
        left = num_tokens
        for segment in manifest.segments:
            if left == 0:
                break
            status = (path / segment.file).stat()
            stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            if stamp not in self._checked or status.st_size != segment.num_bytes:
                check_segment(path, segment)
                self._checked.add(stamp)
            count = min(segment.num_chunks, left // segment.chunk_len)
            blocks.append(open_segment(path / segment.file, segment).chunks(0, count))
            if count == segment.num_chunks:
                whole.append(segment)
            left -= count * segment.chunk_len
        return KnownChunks(tuple(blocks), num_tokens, path, tuple(whole))

    def _is_writable(self) -> bool:
        if self._off:
            return False
        try:
            self._make_folder()
        except OSError:
            return False
        return os.access(self.folder, os.W_OK)

    def _make_folder(self) -> None:
        self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    """Go on after the block if the entry is damaged, and remove it then, or if another process has removed it."""
    try:
        yield
    except DamagedEntryError as error:
        _log.info("The stored memory %s cannot be used and is removed: %s.", path, error)
        entries.remove_entry(path)
    except OSError:
        pass


def _exists(target: Path) -> bool:
    with suppress(OSError, DamagedEntryError):
        read_manifest(target)
        return True
    return False


def _write_entry(
    folder: Path, key: DocumentKey, blocks: Sequence[MemoryBlock], known: KnownChunks, document: str, model: str
) -> None:
    """Make the folder of an entry: known files as hard links, the other full chunks as one file, then the tail."""
    folder.mkdir(mode=0o700)
    full = [block for block in blocks if block.chunk_len == key.chunk_size]
    segments = _link(folder, known, [block.num_chunks for block in full])
    if rest := full[len(segments) :]:
        num_chunks = sum(block.num_chunks for block in rest)
        segments.append(write_segment(folder / f"chunks-{len(segments)}.safetensors", rest, num_chunks))
    segments += [write_segment(folder / "tail.safetensors", [block], 1) for block in blocks[len(full) :]]
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        maker=key.maker,
        document=plain(document),
        model=plain(model),
        chunk_size=key.chunk_size,
        num_tokens=key.num_tokens,
        prefix_hashes=key.prefixes,
        token_hash=key.whole,
        segments=tuple(segments),
    )
    (folder / MANIFEST).write_bytes(manifest.to_json())
    sync_folder(folder)


def _link(folder: Path, known: KnownChunks, num_chunks: Sequence[int]) -> list[Segment]:
    """Hard-link the leading files of `known` that are worth keeping; return their segments.

    A file is kept if it is at least as long as all that follows, so a document that keeps growing has at most
    logarithmically many files and is seldom rewritten.
    """
    linked: list[Segment] = []
    for index, segment in enumerate(known.segments[: len(num_chunks)]):
        if known.entry is None or num_chunks[index] < sum(num_chunks[index + 1 :]):
            break
        try:
            os.link(known.entry / segment.file, folder / segment.file)
        except OSError:  # no hard links, or evicted meanwhile: write the chunks from their mapping
            break
        linked.append(segment)
    return linked


def _remove_continued(known: KnownChunks, key: DocumentKey, target: Path) -> None:
    """Remove the entry that the new one continues."""
    if known.entry is not None and known.entry != target:
        with suppress(OSError, DamagedEntryError):
            if key.continues(read_manifest(known.entry)):
                entries.remove_entry(known.entry)
