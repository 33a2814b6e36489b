"""The store's folder on the file level: listing, verifying, evicting. Needs neither a model nor tensors.

``memories/<group>/<entry>/`` holds one memory: its manifest and its files. Entries of a group have the same maker and
first chunk, and may share files by hard links. The mtime of a manifest is the time of the entry's last use.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from focusdoc.errors import ConfigError, FocusdocError
from focusdoc.memory.manifest import (
    MANIFEST,
    DamagedEntryError,
    Manifest,
    OtherVersionError,
    check_segment,
    read_manifest,
)
from focusdoc.storage import TEMP_MARK, cache_path, file_lock

#: Environment variable for the size limit of the store, in bytes.
BYTES_VARIABLE = "FOCUSDOC_STORE_BYTES"
#: The default limit.
DEFAULT_BYTES = 20_000_000_000
#: Seconds to wait for the store's lock, which other processes hold to add or remove entries.
LOCK_SECONDS = 120.0
#: Folder of the locks held while a document is read, so that other processes wait for it.
LOCKS_FOLDER = ".readers"
#: Name prefix of the folders that documents are spooled to, and the name of the lock file in them.
_SPOOL = f".spool{TEMP_MARK}"
_SPOOL_LOCK = ".lock"


@dataclass(frozen=True)
class Entry:
    """One stored memory.

    Attributes:
        path: its folder.
        num_bytes: total size of its files.
        last_used: seconds since 1970.
        manifest: None if it cannot be read.
        problem: why the entry cannot be used, or None.
        damaged: whether there is a problem other than a different format version.
    """

    path: Path
    num_bytes: int
    last_used: float
    manifest: Manifest | None
    problem: str | None
    damaged: bool


def store_folder() -> Path:
    """The folder of the user's stored memories; not created here. ConfigError: there is no place for a cache."""
    return cache_path() / "memories"


def size_limit() -> int:
    """The size limit of the store in bytes. ConfigError: ``FOCUSDOC_STORE_BYTES`` is not a whole number."""
    value = os.environ.get(BYTES_VARIABLE, "").strip()
    if not value:
        return DEFAULT_BYTES
    if not value.isdecimal():
        raise ConfigError(f"{BYTES_VARIABLE} is {value!r}; give a number of bytes, such as {DEFAULT_BYTES}.")
    return int(value)


def store_lock(folder: Path) -> AbstractContextManager[None]:
    """Lock the store against other writers; readers need no lock."""
    return file_lock(folder / ".lock", timeout=LOCK_SECONDS)


def entry_folders(folder: Path) -> list[Path]:
    """All entries, least recently used first; other processes may add and remove entries meanwhile."""
    return sorted((path for group in subfolders(folder) for path in subfolders(group)), key=_last_used)


def subfolders(folder: Path) -> list[Path]:
    """The groups of the store, or the entries of a group."""
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir()]
    except OSError:  # removed meanwhile
        return []


def list_entries(folder: Path) -> list[Entry]:
    """All entries, most recently used first, without checking their files."""
    return [_entry(path, check=False) for path in reversed(entry_folders(folder))]


def verify_entries(folder: Path, on_entry: Callable[[str], None] | None = None) -> list[Entry]:
    """Check all files against their checksums, and remove damaged entries; those of other formats are kept.

    `on_entry` is called with the document's name before each entry is checked.
    """
    found = []
    for path in reversed(entry_folders(folder)):
        entry = _entry(path, check=True, on_entry=on_entry)
        if entry.damaged and not path.exists():  # evicted meanwhile
            continue
        found.append(entry)
        if entry.damaged:
            remove_entry(path)
    return found


def clear_entries(folder: Path) -> tuple[int, int]:
    """Remove all entries and leftovers of killed processes; return the number of entries and their bytes."""
    if not folder.is_dir():
        return 0, 0
    with store_lock(folder):
        paths = entry_folders(folder)
        num_bytes = used_bytes(folder)
        for path in paths:
            remove_entry(path)
        remove_unfinished(folder)
    return len(paths), num_bytes


def used_bytes(folder: Path) -> int:
    """Total bytes of all files in the store; shared files count once."""
    return _total(map(_files, entry_folders(folder)))


def allowed_bytes(folder: Path, max_bytes: int, spooled: int = 0) -> int:
    """The smaller of `max_bytes` and half of the disk space that would be free with an empty store.

    The folder has `spooled` bytes that belong to no entry yet.
    """
    return min(max_bytes, (shutil.disk_usage(folder).free + used_bytes(folder) + spooled) // 2)


@contextmanager
def spool_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder inside the store for files that belong to no entry yet.

    It is locked while in use, to distinguish it from leftovers of killed processes.
    """
    path = folder / f"{_SPOOL}{uuid.uuid4().hex}"
    with ExitStack() as held:
        with store_lock(folder):
            path.mkdir(mode=0o700)
            held.enter_context(file_lock(path / _SPOOL_LOCK))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def evict(folder: Path, limit: int, *, keep: Path) -> list[Path]:
    """Remove the least recently used entries, but never `keep`, until the store takes at most `limit` bytes.

    A shared file is freed with its last entry. Call it with the store locked.
    """
    left = {path: _files(path) for path in entry_folders(folder)}
    removed = []
    for path in [path for path in left if path != keep]:
        if _total(left.values()) <= limit:
            break
        remove_entry(path)
        removed.append(path)
        del left[path]
    return removed


def remove_entry(path: Path) -> None:
    """Remove an entry, and its group if that is empty then; processes that have mapped its files keep them."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.parent.rmdir()


def remove_unfinished(folder: Path) -> None:
    """Remove unfinished entries of killed processes. Call it with the store locked, when nobody writes entries."""
    for path in folder.glob(f"*/.*{TEMP_MARK}*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(f"{_SPOOL}*"):
        with suppress(FocusdocError), file_lock(path / _SPOOL_LOCK, timeout=0):  # fails if it is in use
            shutil.rmtree(path, ignore_errors=True)
    for group in folder.glob("[!.]*"):
        with suppress(OSError):  # not empty
            group.rmdir()


def mark_used(path: Path) -> None:
    """Record that an entry was used now; if that fails, it is only evicted earlier."""
    now = time.time_ns()  # the file system's own clock may lag by 10 ms
    with suppress(OSError):
        os.utime(path / MANIFEST, ns=(now, now))


def _entry(path: Path, *, check: bool, on_entry: Callable[[str], None] | None = None) -> Entry:
    manifest, problem, damaged = None, None, True
    try:
        manifest = read_manifest(path)
        if on_entry is not None:
            on_entry(manifest.document)
        for segment in manifest.segments if check else ():
            check_segment(path, segment)
        damaged = False
    except OtherVersionError as error:
        problem, damaged = str(error), False
    except DamagedEntryError as error:
        problem = str(error)
    except OSError as error:
        problem = f"a file is missing or unreadable ({error.strerror})"
    return Entry(path, sum(_files(path).values()), _last_used(path), manifest, problem, damaged)


def _last_used(path: Path) -> float:
    try:
        return (path / MANIFEST).stat().st_mtime
    except OSError:
        return 0.0  # no manifest: evict first


def _files(path: Path) -> dict[tuple[int, int], int]:
    """The sizes of an entry's files by (device, inode), which identifies hard links."""
    found = {}
    with suppress(OSError):  # removed by another process
        for file in path.iterdir():
            status = file.stat()
            found[status.st_dev, status.st_ino] = status.st_size
    return found


def _total(entries: Iterable[dict[tuple[int, int], int]]) -> int:
    """The bytes of entries, given as by `_files`; a file that several of them share counts once."""
    return sum({file: size for owned in entries for file, size in owned.items()}.values())
