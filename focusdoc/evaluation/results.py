"""Running a benchmark item by item, and its results on disk.

There is a folder for each benchmark and mode, with the configuration and a JSON line for every item, written as soon as
its result or error is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from focusdoc.errors import EvaluationError
from focusdoc.evaluation.files import read_rows
from focusdoc.storage import atomic_write, file_lock

CONFIG = "config.json"
_ROWS = re.compile(r"rows(-\d+-of-\d+)?\.jsonl")
_FIELDS = ("task", "id", "place")

Row = dict[str, Any]
#: The key of an item within a folder: task and id.
Key = tuple[str, str]
J = TypeVar("J", bound="Job")


@dataclass(frozen=True)
class Shard:
    """Every `count`-th item, starting with number `index`, from 1."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse text such as ``"2/4"``; EvaluationError if it has another form."""
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise EvaluationError(
                f"The shard is {text!r}; write it as number/count, such as 1/4 for the first of four."
            )
        return cls(int(found[1]), int(found[2]))


class ResultFolder:
    """The results of one benchmark in one mode, under one configuration: every setting that affects them.

    Raises:
        EvaluationError: the folder has results of another configuration, or other files.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path = path
        # Through JSON, since later runs compare with the file.
        self.config: dict[str, Any] = json.loads(json.dumps(dict(config)))
        self.key = _config_key(self.config)
        if path.exists() and not path.is_dir():
            raise EvaluationError(f"The output {path} is a file; name a folder.")
        if (path / CONFIG).exists():
            _check_same(path, read_config(path), self.config)
        elif path.exists() and any(not found.name.startswith(".") for found in path.iterdir()):
            raise EvaluationError(f"The output folder {path} has other files; name a new folder.")
        else:
            atomic_write(path / CONFIG, (json.dumps(self.config, indent=1, sort_keys=True) + "\n").encode())

    @contextmanager
    def appending(self, shard: Shard, *, resume: bool) -> Iterator[RowFile]:
        """Open the file of a shard's rows, locked for this process; without `resume` there must be none.

        Raises:
            EvaluationError: there are rows already, or one is damaged. FocusdocError: another process has the lock.
        """
        part = f"-{shard.index}-of-{shard.count}"  # the shards of a run may share a folder
        path = self.path / ("rows.jsonl" if shard.count == 1 else f"rows{part}.jsonl")
        with file_lock(self.path / f".lock{part}", timeout=1):
            if not resume and path.exists() and path.stat().st_size:
                raise EvaluationError(
                    f"{self.path} already has results; continue with --resume, or name another folder."
                )
            yield RowFile(path, self.key, _row_files(self.path) if resume else [])


class RowFile:
    """An append-only JSONL file; an incomplete last line of a killed process is removed.

    The rows of the files `beside` it, such as those of a run with other shards, count too.
    """

    def __init__(self, path: Path, key: str, beside: Sequence[Path] = ()) -> None:
        self._path, self._key = path, key
        if path.exists() and (data := path.read_bytes()) and not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)
        self.rows = _latest({*beside, *([path] if path.exists() else [])}, key)

    def add(self, row: Row) -> None:
        """Append a row and flush it to disk."""
        row = {"config": self._key, **row}
        line = json.dumps(row, ensure_ascii=False) + "\n"
        # Lone surrogates in a prediction become question marks.
        with self._path.open("ab") as file:
            file.write(line.encode("utf-8", "replace"))
            file.flush()
            os.fsync(file.fileno())
        self.rows[row["task"], row["id"]] = row


class Job(Protocol):
    """An item of a run."""

    @property
    def task(self) -> str:
        """The benchmark's name of the task."""

    @property
    def id(self) -> str:
        """Unique within the task."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a report groups by."""


@dataclass(frozen=True)
class Progress:
    """The progress of a shard: items done (earlier runs included), all items, and failed ones."""

    done: int
    total: int
    failed: int
    task: str


def run(
    jobs: Sequence[J],
    work: Callable[[J], Mapping[str, Any]],
    folder: ResultFolder,
    *,
    shard: Shard | None = None,
    resume: bool = False,
    retry: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Run `jobs`, or those of a shard, writing a row for each as it finishes; returns the final progress.

    `work` returns the fields of a job's row. A failing job is written with its error, and the run continues. With
    `resume`, jobs that have a row are skipped, but for failed ones with `retry`; a killed run that is resumed ends with
    the same rows as an uninterrupted one. `progress` is called before every job and at the end.

    Raises:
        EvaluationError: two jobs have the same task and id; see also `ResultFolder.appending`.
    """
    shard = shard or Shard()
    for (task, name), count in Counter((job.task, job.id) for job in jobs).items():
        if count > 1:  # they would share a row
            raise EvaluationError(f"{count} items of {task} are called {name!r}; give each its own name.")
    mine = list(enumerate(jobs))[shard.index - 1 :: shard.count]
    failed = 0
    with folder.appending(shard, resume=resume) as file:
        for done, (place, job) in enumerate(mine):
            if progress is not None:
                progress(Progress(done, len(mine), failed, job.task))
            row = file.rows.get((job.task, job.id))
            if row is None or (retry and "error" in row):
                row = {"task": job.task, "id": job.id, "place": place, "facts": dict(job.facts)}
                try:
                    row |= work(job)
                except Exception as error:  # one failing item must not end the run; its row has the error
                    row["error"] = f"{type(error).__name__}: {error}"
                file.add(row)
            failed += "error" in row
        end = Progress(len(mine), len(mine), failed, "")
        if progress is not None:
            progress(end)
    return end


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a result folder; EvaluationError if there is none, or it is damaged."""
    path = folder / CONFIG
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise EvaluationError(f"{folder} has no results of focusdoc eval ({CONFIG} is missing).") from error
    except (ValueError, TypeError) as error:
        raise EvaluationError(f"{path} is damaged ({error}); remove the folder and run again.") from error


def read_rows_of(folder: Path) -> list[Row]:
    """The rows of all shards of a result folder in the order of the items; see `_latest`."""
    return _in_order(_latest(_row_files(folder), _config_key(read_config(folder))).values())


def find_folders(paths: Sequence[Path]) -> list[Path]:
    """All result folders in `paths` and their subfolders, sorted; EvaluationError if a path has none."""
    found: list[Path] = []
    for path in paths:
        below = sorted(config.parent for config in path.rglob(CONFIG)) if path.is_dir() else []
        if not below:
            raise EvaluationError(f"{path} has no results of focusdoc eval; name the --output of a run.")
        found += below
    return list(dict.fromkeys(found))


def merge(folders: Sequence[Path], output: Path) -> int:
    """Merge the rows of several folders with the same configuration; returns their number.

    Raises:
        EvaluationError: the configurations differ, or `output` has rows.
    """
    first = read_config(folders[0])
    rows: dict[Key, Row] = {}
    for folder in folders:
        _check_same(folder, read_config(folder), first)
        for row in read_rows_of(folder):
            if "error" in rows.get((row["task"], row["id"]), {"error": ""}):
                rows[row["task"], row["id"]] = row
    with ResultFolder(output, first).appending(Shard(), resume=False) as file:
        for row in _in_order(rows.values()):
            file.add(row)
    return len(rows)


def _config_key(config: Mapping[str, Any]) -> str:
    """The first 12 hex digits of a configuration's hash."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]


def _latest(paths: Iterable[Path], key: str) -> dict[Key, Row]:
    """The row of every item in these files, among rows of the configuration `key`: the latest one without an error."""
    found: dict[Key, Row] = {}
    for row in (row for path in sorted(paths) for row in read_rows(path, _FIELDS, torn=True)):
        name = row["task"], row["id"]
        if row.get("config") == key and ("error" not in row or "error" in found.get(name, row)):
            found[name] = row
    return found


def _row_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _ROWS.fullmatch(path.name))


def _in_order(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row["place"], row["task"], row["id"]))


def _check_same(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise EvaluationError, naming a setting that differs, unless `folder` has the configuration `wanted`."""
    different = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if different:
        name = different[0]
        raise EvaluationError(
            f"{folder} has results of another configuration: {name} is {found.get(name)!r} there and "
            f"{wanted.get(name)!r} here; name another folder."
        )
