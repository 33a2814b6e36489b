"""focusdoc's cache folder, and how it writes files: completely or not at all."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from focusdoc.errors import ConfigError, FocusdocError

#: Environment variable that moves the cache to another folder.
CACHE_VARIABLE = "FOCUSDOC_CACHE"
#: Middle part of the names of unfinished files and folders, which a killed process may leave behind.
TEMP_MARK = ".focusdoc-tmp-"
#: Seconds between calls of `waiting` while a lock is held by another.
_WAITING_SECONDS = 0.2


def expanded(path: str | os.PathLike[str]) -> Path:
    """`path` with ``~`` replaced by the user's home.

    Raises:
        ConfigError: the user has no home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"{os.fspath(path)} begins with ~, but this user has no home; give the whole path."
        ) from error


def cache_path() -> Path:
    """The folder for converted models and stored memories, which may not exist yet.

    It is the platform's user cache folder, or the one named by the environment variable ``FOCUSDOC_CACHE``.

    Raises:
        ConfigError: the user has no home, and the variable is not set.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return expanded(chosen)
    try:
        folder = platformdirs.user_cache_path("focusdoc", appauthor=False)
    except RuntimeError:
        folder = Path()
    if not folder.is_absolute():  # older versions of platformdirs leave the ~ as it is
        raise ConfigError(f"This user has no home for a cache; set {CACHE_VARIABLE} to a folder you can write.")
    return folder


def cache_dir() -> Path:
    """`cache_path` for writing, created on first use for its owner only (mode 0700).

    Raises:
        ConfigError: the folder cannot be created or written.
    """
    folder = cache_path()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"The cache folder {folder} cannot be made ({error.strerror}); "
            f"set {CACHE_VARIABLE} to a folder you can write."
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"The cache folder {folder} is not writable; set {CACHE_VARIABLE} to a folder you can write.")
    return folder


def atomic_write(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` so that every reader finds the complete old content or the complete new one.

    Creates missing parent folders. Raises the file system's ``OSError``, and then keeps the old file.
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    temp = _temp_beside(target)
    try:
        with open(temp, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut after the rename may leave an empty file
        os.replace(temp, target)
    finally:
        temp.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty folder beside `target` that replaces it, as a whole, if the block succeeds.

    An existing folder at `target` is removed with its contents. On Linux the two are swapped in one step, so `target`
    always exists; elsewhere it is missing between two renames. If the block raises, the old folder stays and the new
    one is removed. A file at `target` raises ``NotADirectoryError``.
    """
    final = Path(os.path.realpath(target))
    final.parent.mkdir(parents=True, exist_ok=True)
    temp = _temp_beside(final)
    temp.mkdir()
    try:
        yield temp
        sync_folder(temp)
        put_in_place(temp, final)
    finally:
        # By now this is the unfinished new folder, or the old one after the swap.
        shutil.rmtree(temp, ignore_errors=True)


def remove_leftovers(target: str | os.PathLike[str]) -> None:
    """Remove what killed processes left beside `target`. Call it only while holding the lock on `target`."""
    final = Path(os.path.realpath(target))
    for path in final.parent.glob(f".{final.name}{TEMP_MARK}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's content, in lower-case hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def file_lock(
    path: str | os.PathLike[str], *, timeout: float = 600.0, waiting: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; excludes other processes and threads.

    The operating system releases the lock if its holder dies. The file itself stays.

    Args:
        timeout: seconds to wait for another holder.
        waiting: called several times a second while waiting; an exception it raises ends the wait.

    Raises:
        FocusdocError: another process held the lock for `timeout` seconds.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(os.fspath(path))
    end = time.monotonic() + timeout
    while not lock.is_locked:
        try:
            lock.acquire(timeout=max(0.0, min(_WAITING_SECONDS, end - time.monotonic())))
        except Timeout as error:
            if time.monotonic() >= end:
                raise FocusdocError(
                    f"Another process has held {os.fspath(path)} for {timeout:g} seconds; wait until it has ended, "
                    "then retry."
                ) from error
            if waiting is not None:
                waiting()
    try:
        yield
    finally:
        lock.release()


def _temp_beside(target: Path) -> Path:
    """A fresh name in the same folder, hence on the same file system, where a rename is atomic."""
    return target.with_name(f".{target.name}{TEMP_MARK}{uuid.uuid4().hex}")


def sync_folder(folder: Path) -> None:
    """Flush all files in `folder` to disk, before the folder gets its final name."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())


def put_in_place(new: Path, final: Path) -> None:
    """Rename the folder `new` to `final`; a folder of that name ends up as `new`.

    Raises:
        NotADirectoryError: `final` is a file. OSError: renaming fails.
    """
    if not final.exists():
        os.rename(new, final)
    elif not final.is_dir():
        raise NotADirectoryError(f"{final} is a file; choose another name for the folder.")
    elif not _exchange(new, final):
        aside = _temp_beside(final)
        os.rename(final, aside)
        try:
            os.rename(new, final)
        except OSError:
            os.rename(aside, final)
            raise
        os.rename(aside, new)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names atomically; False where the system or the file system cannot."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    at_working_folder, exchange_flag = -100, 2
    names = (at_working_folder, os.fsencode(one), at_working_folder, os.fsencode(other))
    return bool(libc.renameat2(*names, exchange_flag) == 0)
