"""The store's folder as files: what is in it, what it takes, what must go. No model and no tensor is needed here.

``memories/<group>/<entry>/`` holds one memory: its manifest and its files. Entries of a group share the maker and the
first chunk; they may share files by hard links. A manifest's time of change is when its entry was last used.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
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
#: The limit where the variable is not set.
DEFAULT_BYTES = 20_000_000_000
#: So long a process waits for another one that puts an entry in its place or removes some, in seconds.
LOCK_SECONDS = 120.0
#: The folder of the locks by which one process reads a document and the others wait for it.
READERS = ".readers"
#: How the names of folders begin that documents are read into, and the lock in them.
_SPOOL = f".spool{TEMP_MARK}"
_SPOOL_LOCK = ".lock"


@dataclass(frozen=True)
class Entry:
    """One stored memory as `list_entries` and `verify_entries` tell of it.

    Attributes:
        path: its folder.
        num_bytes: of its files.
        last_used: seconds since 1970.
        manifest: None where it cannot be read.
        problem: why the entry cannot be used, or None.
        damaged: there is a problem, and it is not only that another version of focusdoc wrote the entry.
    """

    path: Path
    num_bytes: int
    last_used: float
    manifest: Manifest | None
    problem: str | None
    damaged: bool


def store_folder() -> Path:
    """The folder of the user's stored memories; not made here. ConfigError: there is no place for a cache."""
    return cache_path() / "memories"


def size_limit() -> int:
    """The most bytes that the store may take.

    Raises:
        ConfigError: ``FOCUSDOC_STORE_BYTES`` is no whole number.
    """
    given = os.environ.get(BYTES_VARIABLE, "").strip()
    if not given:
        return DEFAULT_BYTES
    if not given.isdecimal():
        raise ConfigError(f"{BYTES_VARIABLE} is {given!r}; give a number of bytes, such as {DEFAULT_BYTES}.")
    return int(given)


def store_lock(folder: Path) -> AbstractContextManager[None]:
    """Hold the store against other writers; readers need no lock."""
    return file_lock(folder / ".lock", timeout=LOCK_SECONDS)


def entry_folders(folder: Path) -> list[Path]:
    """All entries, the one used longest ago first."""
    return sorted((path for path in folder.glob("[!.]*/[!.]*") if path.is_dir()), key=_last_used)


def list_entries(folder: Path) -> list[Entry]:
    """All entries, the last used first; files are not checked."""
    return [_entry(path, check=False) for path in reversed(entry_folders(folder))]


def verify_entries(folder: Path, tell: Callable[[str], None] | None = None) -> list[Entry]:
    """Check every file of every entry against its checksums, and remove the damaged entries.

    Entries that another version of focusdoc wrote are told of, and stay.

    Args:
        tell: is given the document's name before an entry is checked.
    """
    found = []
    for path in reversed(entry_folders(folder)):
        entry = _entry(path, check=True, tell=tell)
        found.append(entry)
        if entry.damaged:
            remove_entry(path)
    return found


def clear_entries(folder: Path) -> tuple[int, int]:
    """Remove all entries and what killed processes left; returns how many entries, and the bytes they took."""
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
    """Bytes of all files in the store; one that several entries share counts once."""
    return sum({file: size for path in entry_folders(folder) for file, size in _files(path).items()}.values())


def allowed_bytes(folder: Path, max_bytes: int, spooled: int = 0) -> int:
    """`max_bytes`, but at most half of what the disk has free where the store is emptied.

    Args:
        spooled: bytes in the folder that no entry has yet.
    """
    return min(max_bytes, (shutil.disk_usage(folder).free + used_bytes(folder) + spooled) // 2)


@contextmanager
def spool_folder(folder: Path) -> Iterator[Path]:
    """A folder inside the store for files that no entry has yet; it goes when the block ends.

    It is locked meanwhile, by which others tell it from what a killed process left.
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
    """Remove the entries used longest ago, but never `keep`, until the store takes at most `limit` bytes.

    A file that entries share is freed with the last of them. Call it under the lock.
    """
    files = {path: _files(path) for path in entry_folders(folder)}
    sharing = Counter(file for owned in files.values() for file in owned)
    total = sum({file: size for owned in files.values() for file, size in owned.items()}.values())
    removed = []
    for path, owned in files.items():
        if total <= limit:
            break
        if path == keep:
            continue
        remove_entry(path)
        removed.append(path)
        for file, size in owned.items():
            sharing[file] -= 1
            total -= 0 if sharing[file] else size
    return removed


def remove_entry(path: Path) -> None:
    """Remove one entry, and its group if it was the last one; processes that have mapped its files keep them."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.parent.rmdir()


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left half written. Call it under the lock: nobody writes entries then."""
    for path in folder.glob(f"*/.*{TEMP_MARK}*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(f"{_SPOOL}*"):
        with suppress(FocusdocError), file_lock(path / _SPOOL_LOCK, timeout=0):  # an error: it is in use
            shutil.rmtree(path, ignore_errors=True)
    for group in folder.glob("[!.]*"):
        with suppress(OSError):  # where it is not empty
            group.rmdir()


def mark_used(path: Path) -> None:
    """Note that an entry was used now. Where that cannot be written, it only goes earlier."""
    now = time.time_ns()  # the file system's own clock may stand still for 10 ms
    with suppress(OSError):
        os.utime(path / MANIFEST, ns=(now, now))


def _entry(path: Path, *, check: bool, tell: Callable[[str], None] | None = None) -> Entry:
    manifest, problem, damaged = None, None, True
    try:
        manifest = read_manifest(path)
        if tell is not None:
            tell(manifest.document)
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
        return 0.0  # no manifest: the first to go


def _files(path: Path) -> dict[tuple[int, int], int]:
    """The size of every file of an entry, by what tells whether two names are one file."""
    found = {}
    with suppress(OSError):  # removed meanwhile
        for file in path.iterdir():
            status = file.stat()
            found[status.st_dev, status.st_ino] = status.st_size
    return found
