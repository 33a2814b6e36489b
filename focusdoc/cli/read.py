"""``focusdoc read``: read documents and folders into the document store, so that later questions need no reading."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from focusdoc.cli import options
from focusdoc.cli.dataclass_options import dataclass_options
from focusdoc.cli.display import count_of, in_options, say, show_error, show_left_out
from focusdoc.cli.loading import EngineOptions
from focusdoc.documents import load
from focusdoc.errors import ClusterError, ConfigError, FocusdocError
from focusdoc.terminal import in_bytes, progress_bar

if TYPE_CHECKING:
    from focusdoc.engine import FocusEngine

#: Exit code if a document could not be read.
FAILED = 1


@dataclass(frozen=True)
class Outcome:
    """The result of reading a file.

    Attributes:
        tokens, bytes: size of the document and of its keys and values.
        tokens_read: tokens that were not in the store; like the others, 0 if `error` is set.
        left_out: what is in the document but missing from its text.
    """

    file: str
    tokens: int = 0
    tokens_read: int = 0
    bytes: int = 0
    left_out: tuple[str, ...] = ()
    error: FocusdocError | None = None

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(replace(self, error=None)) | {"error": in_options(str(self.error)) if self.error else None}


@dataclass_options(without=("reader", "reader_model", "paper", "quote_tokens", "no_store"))
def read(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER|FILE", help="A file, or a folder with its subfolders.", show_default=False),
    ],
    *,
    loading: EngineOptions,
    password: options.Password = None,
    json_output: options.Json = False,
) -> None:
    """Read documents, or folders of them, into the document store, so that later questions need no reading.

    If stopped, run it again: it resumes where it stopped. With --cluster, several documents are read at the same time.
    Exit code 1 if some cannot be read; they are listed at the end.
    """
    files = list(files_of(paths))
    engine = replace(loading, reader="none").load()
    outcomes = sorted(read_all(engine, files, password), key=lambda outcome: outcome.file)
    if json_output:
        print(json.dumps({"documents": [outcome.to_dict() for outcome in outcomes]}, indent=2))
    else:
        _show(outcomes)
    if any(outcome.error for outcome in outcomes):
        raise typer.Exit(FAILED)


def files_of(paths: Sequence[Path]) -> Iterator[Path]:
    """The given files and all files of the given folders, except hidden ones; each once.

    Raises:
        ConfigError: a path does not exist, or a folder has no file.
    """
    known: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise ConfigError(f"There is no file or folder {path}.")
        inside = sorted(each for each in path.rglob("*") if each.is_file())
        shown = [file for file in inside if not any(part.startswith(".") for part in file.relative_to(path).parts)]
        found = [path] if path.is_file() else shown
        if not found:
            raise ConfigError(f"The folder {path} has no files.")
        yield from (file for file in found if file not in known)
        known.update(found)


def read_all(engine: FocusEngine, files: Sequence[Path], password: str | None) -> list[Outcome]:
    """Read files into the store, with a progress bar; over a cluster, several at a time.

    Raises:
        ConfigError: there is no store, or it cannot keep all of them. ClusterError: the cluster fails.
    """
    if engine.store is None:
        raise ConfigError("The document store is off, so nothing can be kept; unset FOCUSDOC_STORE.")
    # One more than the processes, so that the next document is loaded in the meantime.
    count = 1 if engine.cluster is None else len(engine.cluster) + 1
    # Hosts may have separate stores, whose limits are not known here.
    one_store = engine.cluster is None or len(set(engine.cluster.holders.hosts())) == 1
    room = engine.store.free_space() if one_store else None
    stopped = threading.Event()
    shares = dict.fromkeys(files, 0.0)
    outcomes: list[Outcome] = []
    with progress_bar("Reading", "documents") as bar, ThreadPoolExecutor(count) as pool:

        def show(file: Path, share: float) -> None:
            if stopped.is_set():
                raise _StoppedError
            shares[file] = share
            bar(sum(shares.values()), len(files))

        try:
            for future in as_completed([pool.submit(_read_one, engine, file, password, show) for file in files]):
                outcomes.append(future.result())
                if room is not None and (needed := sum(outcome.bytes for outcome in outcomes)) > room:
                    raise ConfigError(
                        f"The store keeps at most {in_bytes(room)}, and {len(outcomes)} of the {len(files)} documents "
                        f"already take {in_bytes(needed)}, so the first are evicted again; raise "
                        "FOCUSDOC_STORE_BYTES, make room on the disk, or read fewer."
                    )
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    return outcomes


class _StoppedError(Exception):
    """Reading was stopped in another thread."""


def _read_one(engine: FocusEngine, file: Path, password: str | None, show: Callable[[Path, float], None]) -> Outcome:
    """Read one file; errors are part of the outcome, except those of the cluster."""
    show(file, 0.0)
    try:
        document = load(file, password=password)
        memory = engine.read(
            document, progress=lambda done, total: show(file, done / max(1, total)), on_plan=lambda plan: None
        )
    except ClusterError:
        raise
    except FocusdocError as error:
        show(file, 1.0)
        return Outcome(str(file), error=error)
    show(file, 1.0)
    return Outcome(str(file), memory.num_tokens, memory.tokens_encoded, memory.num_bytes, tuple(document.left_out))


def _show(outcomes: Sequence[Outcome]) -> None:
    good = [outcome for outcome in outcomes if outcome.error is None]
    known = sum(not outcome.tokens_read for outcome in good)
    for outcome in outcomes:
        show_left_out(outcome.file, outcome.left_out)
        if outcome.error is not None:
            show_error(outcome.error, outcome.file)
    say(
        f"{count_of(len(outcomes))}: {len(good) - known:,} read, {known:,} known already, "
        f"{len(outcomes) - len(good):,} failed; "
        f"{sum(outcome.tokens for outcome in good):,} tokens, {in_bytes(sum(outcome.bytes for outcome in good))}."
    )
