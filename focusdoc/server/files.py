"""Uploaded files on disk: written atomically, visible only to their owners, kept across restarts."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from focusdoc.errors import ConfigError, FocusdocError
from focusdoc.storage import atomic_folder, remove_leftovers

_ID = re.compile(r"file-[0-9a-f]{24}")
_PIECE = 1 << 20


class UnknownFileError(FocusdocError):
    """A file or response does not exist, or belongs to another owner."""


class FileTooLargeError(FocusdocError):
    """An upload exceeds the size limit."""


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """An uploaded file.

    Attributes:
        id: such as ``file-0123...``.
        filename: the client's name for it; never used as a path.
        created_at, expires_at: Unix times in seconds; `expires_at` is None for never.
        owner: a digest of the owner's API key, or empty if the server needs none.
        sha256: hex digest of the content.
    """

    id: str
    filename: str
    num_bytes: int
    created_at: int
    purpose: str
    owner: str
    sha256: str
    expires_at: int | None = None

    @property
    def document_name(self) -> str:
        """The document's name: the id makes it unique, and the suffix distinguishes text formats."""
        return f"{self.id} {self.filename}"

    @property
    def is_expired(self) -> bool:
        """Whether it has expired."""
        return self.expires_at is not None and self.expires_at <= time.time()


class FileStore:
    """A folder with a subfolder for each file: its content, and its metadata as JSON.

    Args:
        folder: created with mode 0700 if missing; ConfigError if that fails.
        max_bytes: size limit of a file.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self.max_bytes = max_bytes
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"The folder {folder} for uploads cannot be created ({error.strerror}).") from error
        for path in folder.iterdir():  # left half written by a killed process
            if path.name.startswith("."):
                shutil.rmtree(path, ignore_errors=True)

    def free_bytes(self) -> int:
        """Free bytes on the disk."""
        return shutil.disk_usage(self._folder).free

    def add(
        self, content: BinaryIO, *, filename: str, purpose: str, owner: str, expires_after: int | None = None
    ) -> StoredFile:
        """Store a file, for `expires_after` seconds if given.

        Raises:
            FileTooLargeError: it has more than `max_bytes`; nothing is stored.
        """
        name, now = f"file-{secrets.token_hex(12)}", int(time.time())
        target = self._folder / name
        with atomic_folder(target) as folder:
            digest, size = hashlib.sha256(), 0
            with (folder / "content").open("xb") as kept:
                while piece := content.read(_PIECE):
                    size += len(piece)
                    if size > self.max_bytes:
                        raise FileTooLargeError(f"The file has more than the {self.max_bytes:,} bytes allowed.")
                    digest.update(piece)
                    kept.write(piece)
            file = StoredFile(
                id=name,
                filename=filename,
                num_bytes=size,
                created_at=now,
                purpose=purpose,
                owner=owner,
                sha256=digest.hexdigest(),
                expires_at=None if expires_after is None else now + expires_after,
            )
            (folder / "file.json").write_text(json.dumps(asdict(file)), encoding="utf-8")
        remove_leftovers(target)
        return file

    def get(self, file_id: str, owner: str) -> StoredFile:
        """The owner's file with this id; UnknownFileError if there is none, or it has another owner or has expired."""
        file = self._read(file_id) if _ID.fullmatch(file_id) else None
        if file is None or file.owner != owner or file.is_expired:
            raise UnknownFileError(f"There is no file {file_id!r}; upload it, or list the files.")
        return file

    def all(self) -> Iterator[StoredFile]:
        """The files of all owners, oldest first, without expired ones."""
        kept = (file for file in self._read_all() if not file.is_expired)
        yield from sorted(kept, key=lambda file: file.created_at)

    def expired(self) -> list[StoredFile]:
        """The expired files of all owners."""
        return [file for file in self._read_all() if file.is_expired]

    def content(self, file: StoredFile) -> Path:
        """The path of a file's content."""
        return self._folder / file.id / "content"

    def delete(self, file: StoredFile) -> None:
        """Delete a file; raises OSError if that fails."""
        with suppress(FileNotFoundError):  # another request deleted it
            shutil.rmtree(self._folder / file.id)

    def _read_all(self) -> Iterator[StoredFile]:
        found = (self._read(path.name) for path in self._folder.iterdir() if _ID.fullmatch(path.name))
        return filter(None, found)

    def _read(self, file_id: str) -> StoredFile | None:
        try:
            return StoredFile(**json.loads((self._folder / file_id / "file.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
