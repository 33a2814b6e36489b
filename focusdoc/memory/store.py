"""The document store: memories on disk, found by their tokens and their maker."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from focusdoc.errors import FocusdocError
from focusdoc.memory import entries
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    DamagedEntryError,
    Manifest,
    Segment,
    TokenHashes,
    check_segment,
    group_name,
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

    def find(self, token_ids: Sequence[int], chunk_size: int, maker: str) -> KnownChunks:
        """The longest stored prefix of a document: all of it, or full chunks of a longer or shorter version.

        The `maker` identifies everything but the chunk size that determines the KV.
        """
        hashes = TokenHashes(token_ids, chunk_size)
        group = self.folder / group_name(maker, chunk_size, hashes)
        candidates: list[tuple[int, Path, Manifest]] = []
        for path in entries.subfolders(group):
            with _usable(path):
                manifest = read_manifest(path)
                if (manifest.maker, manifest.chunk_size) != (maker, chunk_size):
                    raise DamagedEntryError("made by another model or for another chunk size")
                if known := _known_tokens(manifest, hashes, len(token_ids)):
                    candidates.append((known, path, manifest))
        for known, path, manifest in sorted(candidates, key=lambda candidate: candidate[0], reverse=True):
            with _usable(path):
                found = self._open(path, manifest, known)
                entries.mark_used(path)
                return found
        return KnownChunks()

    def forget(self, token_ids: Sequence[int], chunk_size: int, maker: str) -> None:
        """Remove the entry of exactly this document; processes that have mapped its files keep them."""
        hashes = TokenHashes(token_ids, chunk_size)
        group = self.folder / group_name(maker, chunk_size, hashes)
        if not entries.subfolders(group):
            return
        with entries.store_lock(self.folder):
            for path in entries.subfolders(group):
                with suppress(DamagedEntryError, OSError):
                    manifest = read_manifest(path)
                    if manifest.num_tokens == len(token_ids) == _known_tokens(manifest, hashes, len(token_ids)):
                        entries.remove_entry(path)

    def free_space(self) -> int | None:
        """Bytes available for spooling a document; None if the folder is not writable."""
        return entries.allowed_bytes(self.folder, self.max_bytes) if self._is_writable() else None

    @contextmanager
    def reading_lock(
        self, token_ids: Sequence[int], chunk_size: int, maker: str, waiting: Callable[[], None] | None = None
    ) -> Iterator[None]:
        """Hold a lock on a document while it is looked up, read and saved, so that only one process reads it.

        Without write access there is no lock.

        Args:
            waiting: called several times a second while another thread or process holds the lock; an exception it
                raises ends the waiting.
        """
        with ExitStack() as held:
            if self._is_writable():
                name = group_name(maker, chunk_size, TokenHashes(token_ids, max(1, len(token_ids))))
                # Three hex digits: at most 4,096 lock files, and collisions of documents are rare.
                path = self.folder / entries.LOCKS_FOLDER / name[:3]
                with suppress(OSError, NotImplementedError):  # a file system without locks
                    held.enter_context(file_lock(path, timeout=math.inf, waiting=waiting))
            yield

    def save(
        self,
        token_ids: Sequence[int],
        blocks: Sequence[MemoryBlock],
        chunk_size: int,
        maker: str,
        *,
        known: KnownChunks | None = None,
        document: str = "",
        model: str = "",
    ) -> bool:
        """Store the memory of a document; return whether it is stored now.

        Args:
            blocks: all chunks of the document in order, those of `known` first.
            known: the result of `find`. Its files are shared, not copied, and the entry it came from is replaced if
                this one continues it.
            document, model: names for `focusdoc store list`.
        """
        if self._off:
            return False
        known = known or KnownChunks()
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
                return False
            hashes = TokenHashes(token_ids, chunk_size)
            target = self.folder / group_name(maker, chunk_size, hashes) / hashes.whole[:32]
            with entries.spool_folder(self.folder) as beside:
                fresh = beside / "entry"
                if not _exists(target):  # another process may have been first
                    fresh.mkdir(mode=0o700)
                    manifest = Manifest(
                        format_version=FORMAT_VERSION,
                        maker=maker,
                        document=plain(document),
                        model=plain(model),
                        chunk_size=chunk_size,
                        num_tokens=len(token_ids),
                        prefix_hashes=hashes.prefixes,
                        token_hash=hashes.whole,
                        segments=tuple(_write(fresh, blocks, chunk_size, known)),
                    )
                    (fresh / MANIFEST).write_bytes(manifest.to_json())
                    sync_folder(fresh)
                # The files were written without the lock; it is only needed for renaming and evicting.
                with entries.store_lock(self.folder):
                    entries.remove_unfinished(self.folder)
                    if fresh.exists() and not _exists(target):
                        target.parent.mkdir(mode=0o700, exist_ok=True)
                        put_in_place(fresh, target)
                        _remove_continued(known, token_ids, chunk_size, target)
                    entries.mark_used(target)
                    entries.evict(self.folder, allowed, keep=target)
        except FocusdocError as error:
            _log.warning("The memory of %s is not stored: %s", plain(document) or "a document", error)
            return False
        except (OSError, ValueError) as error:
            self._off = True
            _log.warning(
                "The document store is off: %s cannot be written (%s). Answers are not affected, but the document "
                "will be read again next time; make room, or set FOCUSDOC_CACHE to another folder.",
                self.folder,
                getattr(error, "strerror", None) or error,
            )
            return False
        return True

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


def _known_tokens(manifest: Manifest, hashes: TokenHashes, num_tokens: int) -> int:
    """How many leading tokens of a document an entry has: all of them, or those of the common full chunks."""
    if (manifest.token_hash, manifest.num_tokens) == (hashes.whole, num_tokens):
        return num_tokens
    pairs = zip(manifest.prefix_hashes, hashes.prefixes, strict=False)
    return manifest.chunk_size * sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _exists(target: Path) -> bool:
    with suppress(OSError, DamagedEntryError):
        read_manifest(target)
        return True
    return False


def _write(folder: Path, blocks: Sequence[MemoryBlock], chunk_size: int, known: KnownChunks) -> Iterator[Segment]:
    """Write all chunks to `folder`: known files as hard links, the other full chunks as one file, then the tail."""
    full = [block for block in blocks if block.chunk_len == chunk_size]
    shared = _link(folder, known, [block.num_chunks for block in full])
    yield from shared
    if len(shared) < len(full):
        yield write_segment(folder / f"chunks-{len(shared)}.safetensors", full[len(shared) :])
    for block in blocks:
        if block.chunk_len != chunk_size:
            yield write_segment(folder / "tail.safetensors", [block])


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


def _remove_continued(known: KnownChunks, token_ids: Sequence[int], chunk_size: int, target: Path) -> None:
    """Remove the entry that the new one continues: its tokens are the first of the new one's."""
    if known.entry is None or known.entry == target:
        return
    with suppress(OSError, DamagedEntryError):
        older = read_manifest(known.entry)
        if TokenHashes(token_ids[: older.num_tokens], chunk_size).whole == older.token_hash:
            entries.remove_entry(known.entry)
