"""The document store: memories on disk, known again by their tokens and by what made them."""

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
    """The leading chunks of a document that the store knows.

    Attributes:
        blocks: their KV, memory-mapped.
        num_tokens: how many tokens they cover: whole chunks, or the whole document.
        entry: where they lie; None if nothing is known.
        segments: the files that the first blocks are, whole, for a longer version to share.
        spooled: these chunks were just read into files that no entry has yet.
    """

    blocks: tuple[MemoryBlock, ...] = ()
    num_tokens: int = 0
    entry: Path | None = None
    segments: tuple[Segment, ...] = ()
    spooled: bool = False

    @property
    def num_bytes(self) -> int:
        """Bytes of the files."""
        return sum(segment.num_bytes for segment in self.segments)


class DocumentStore:
    """Memories of documents in a folder that any number of processes use at once.

    What is found was written for exactly these tokens by exactly this maker, and is undamaged: an entry's checksums
    are compared when a process first opens it. Whatever does not fit is removed and counts as not found. Nothing
    that goes wrong while storing is an error: the store says so once, in the log, and stores nothing more.

    Args:
        folder: made on first use, for its owner alone (mode 0700).
        max_bytes: the entries used longest ago go when the folder would take more than this, or more than half of
            the disk's free space.
    """

    def __init__(self, folder: Path, max_bytes: int = entries.DEFAULT_BYTES) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._off = False
        #: Files whose checksums were compared in this process: (device, inode, size, time of change).
        self._checked: set[tuple[int, int, int, int]] = set()

    def find(self, token_ids: Sequence[int], chunk_size: int, maker: str) -> KnownChunks:
        """The longest known beginning of a document: all of it, or full chunks of a longer or shorter version.

        Args:
            maker: names everything that shapes the KV besides the chunk size.
        """
        hashes = TokenHashes(token_ids, chunk_size)
        group = self.folder / group_name(maker, chunk_size, hashes)
        candidates: list[tuple[int, Path, Manifest]] = []
        for path in _entries_of(group):
            try:
                manifest = read_manifest(path)
                if (manifest.maker, manifest.chunk_size) != (maker, chunk_size):
                    raise DamagedEntryError("made by another model or for another chunk size")
            except DamagedEntryError as error:
                self._discard(path, error)
                continue
            except OSError:
                continue  # removed by another process meanwhile
            if known := _known_tokens(manifest, hashes, len(token_ids)):
                candidates.append((known, path, manifest))
        for known, path, manifest in sorted(candidates, key=lambda candidate: candidate[0], reverse=True):
            try:
                found = self._open(path, manifest, known)
            except DamagedEntryError as error:
                self._discard(path, error)
            except OSError:
                continue
            else:
                entries.mark_used(path)
                return found
        return KnownChunks()

    def forget(self, token_ids: Sequence[int], chunk_size: int, maker: str) -> None:
        """Remove the entry of exactly this document; processes that have mapped its files keep them."""
        hashes = TokenHashes(token_ids, chunk_size)
        group = self.folder / group_name(maker, chunk_size, hashes)
        with entries.store_lock(self.folder):
            for path in _entries_of(group):
                with suppress(DamagedEntryError, OSError):
                    manifest = read_manifest(path)
                    if manifest.num_tokens == len(token_ids) == _known_tokens(manifest, hashes, len(token_ids)):
                        entries.remove_entry(path)

    def room(self) -> int | None:
        """Bytes that a document may take which is written while it is read; None where nothing can be written."""
        return entries.allowed_bytes(self.folder, self.max_bytes) if self._is_writable() else None

    @contextmanager
    def only_reader(
        self, token_ids: Sequence[int], chunk_size: int, maker: str, waiting: Callable[[], None] | None = None
    ) -> Iterator[None]:
        """Hold a document while it is looked up, read and saved: of all that want it, one reads and the others find.

        Where nothing can be written, everybody reads.

        Args:
            waiting: called several times a second while another thread or process holds the document; what it raises
                ends the waiting.
        """
        with ExitStack() as held:
            if self._is_writable():
                name = group_name(maker, chunk_size, TokenHashes(token_ids, max(1, len(token_ids))))
                # By the first digits: there are never more than 4,096 files, and hardly ever do two documents meet.
                path = self.folder / entries.READERS / name[:3]
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
        """Store the memory of a document; returns whether it is there now.

        Args:
            blocks: all of the document's chunks in order, those of `known` first.
            known: what `find` gave. Its files are shared, not copied, and an entry that this one goes on from is
                replaced.
            document, model: names for `focusdoc store list`.
        """
        if self._off:
            return False
        known = known or KnownChunks()
        try:
            self._make_folder()
            needed = sum(block.num_bytes for block in blocks)
            spooled = known.num_bytes if known.spooled else 0
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
                if not _is_there(target):  # else another process was first
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
                # Gigabytes were written without the lock; under it, names change and old entries go.
                with entries.store_lock(self.folder):
                    entries.remove_unfinished(self.folder)
                    if fresh.exists() and not _is_there(target):
                        target.parent.mkdir(mode=0o700, exist_ok=True)
                        put_in_place(fresh, target)
                        _remove_continued(known, manifest, target)
                    entries.mark_used(target)
                    entries.evict(self.folder, allowed, keep=target)
        except FocusdocError as error:
            _log.warning("The memory of %s is not stored: %s", plain(document) or "a document", error)
            return False
        except (OSError, ValueError) as error:
            self._off = True
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            _log.warning(
                "The document store is off: %s cannot be written (%s). Answers are not affected, but the document "
                "will be read again next time; make room, or set FOCUSDOC_CACHE to another folder.",
                self.folder,
                reason,
            )
            return False
        return True

    def _open(self, path: Path, manifest: Manifest, num_tokens: int) -> KnownChunks:
        """The chunks of an entry that cover `num_tokens`, their files checked and mapped."""
        blocks: list[MemoryBlock] = []
        whole: list[Segment] = []
        left = num_tokens
        for segment in manifest.segments:
            if left == 0:
                break
            self._check(path, segment)
            block = open_segment(path / segment.file, segment)
            count = min(segment.num_chunks, left // segment.chunk_len)
            if count < segment.num_chunks:
                block = block.chunks(0, count)
            else:
                whole.append(segment)
            blocks.append(block)
            left -= count * segment.chunk_len
        return KnownChunks(tuple(blocks), num_tokens, path, tuple(whole))

    def _check(self, path: Path, segment: Segment) -> None:
        """Compare a file with its checksums, once a process."""
        status = (path / segment.file).stat()
        stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if stamp not in self._checked or status.st_size != segment.num_bytes:
            check_segment(path, segment)
            self._checked.add(stamp)

    def _discard(self, path: Path, error: DamagedEntryError) -> None:
        """Remove an entry that cannot be used."""
        _log.info("The stored memory %s is not used and removed: %s.", path, error)
        entries.remove_entry(path)

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


def _entries_of(group: Path) -> list[Path]:
    try:
        return [path for path in group.iterdir() if not path.name.startswith(".")]
    except OSError:
        return []  # nothing with this first chunk


def _known_tokens(manifest: Manifest, hashes: TokenHashes, num_tokens: int) -> int:
    """How many leading tokens of a document an entry knows: all, or those of the full chunks that both have."""
    if (manifest.token_hash, manifest.num_tokens) == (hashes.whole, num_tokens):
        return num_tokens
    common = 0
    for one, other in zip(manifest.prefix_hashes, hashes.prefixes, strict=False):
        if one != other:
            break
        common += 1
    return common * manifest.chunk_size


def _is_there(target: Path) -> bool:
    try:
        read_manifest(target)
    except (OSError, DamagedEntryError):
        return False
    return True


def _write(folder: Path, blocks: Sequence[MemoryBlock], chunk_size: int, known: KnownChunks) -> Iterator[Segment]:
    """Put all chunks into `folder`: known files as hard links, the other full chunks as one file, the ragged one."""
    full = [block for block in blocks if block.chunk_len == chunk_size]
    shared = _link(folder, known, [block.num_chunks for block in full])
    yield from shared
    if len(shared) < len(full):
        yield write_segment(folder / f"chunks-{len(shared)}.safetensors", full[len(shared) :])
    for block in blocks:
        if block.chunk_len != chunk_size:
            yield write_segment(folder / "tail.safetensors", [block])


def _link(folder: Path, known: KnownChunks, num_chunks: Sequence[int]) -> list[Segment]:
    """Link the leading files of `known` that are worth keeping as they are; returns their segments.

    A file is kept if it is at least as long as all that follows it: so a document that grows again and again is
    never in more files than the logarithm of its length, and is seldom written anew.
    """
    linked: list[Segment] = []
    for index, segment in enumerate(known.segments[: len(num_chunks)]):
        if known.entry is None or num_chunks[index] < sum(num_chunks[index + 1 :]):
            break
        try:
            os.link(known.entry / segment.file, folder / segment.file)
        except OSError:  # a file system without hard links, or evicted meanwhile: written from its mapping then
            break
        linked.append(segment)
    return linked


def _remove_continued(known: KnownChunks, manifest: Manifest, target: Path) -> None:
    """Remove the entry that the new one continues: all its full chunks are in the new one."""
    if known.entry is None or known.entry == target:
        return
    try:
        older = read_manifest(known.entry)
    except (OSError, DamagedEntryError):
        return
    if older.prefix_hashes == manifest.prefix_hashes[: len(older.prefix_hashes)]:
        entries.remove_entry(known.entry)
