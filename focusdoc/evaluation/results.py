"""Running a benchmark item by item, and its results on disk: rows, then scores averaged over tasks, lengths and depths.

There is a folder for each benchmark and mode, with the configuration and a JSON line for every item, written as soon as
its result or error is there. Scores are always computed again from the predictions.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from focusdoc.errors import EvaluationError
from focusdoc.evaluation.item import MODES
from focusdoc.evaluation.loading import needed, read_rows
from focusdoc.evaluation.scores import score
from focusdoc.storage import atomic_write, file_lock

if TYPE_CHECKING:
    import pandas as pd

CONFIG = "config.json"
_ROWS = re.compile(r"rows(-\d+-of-\d+)?\.jsonl")
#: Columns that every table has.
_COLUMNS = (
    *("task", "length", "depth", "chunk_size", "error", "nll", "targets", "kv_bytes", "read", "first_token", "decode"),
    "passage_tokens",
)

Row = dict[str, Any]


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
            _check_same(path, self.config)
        elif path.exists() and any(not found.name.startswith(".") for found in path.iterdir()):
            raise EvaluationError(f"The output folder {path} has other files; name a new folder.")
        else:
            atomic_write(path / CONFIG, (json.dumps(self.config, indent=1, sort_keys=True) + "\n").encode())

    @contextmanager
    def appending(self, shard: Shard, *, resume: bool) -> Iterator[Callable[[Row], None]]:
        """Open the file of a shard's rows, locked for this process; without `resume` there must be none.

        Yields a function that appends a row and flushes it to disk.

        Raises:
            EvaluationError: there are rows already. FocusdocError: another process has the lock.
        """
        part = f"-{shard.index}-of-{shard.count}"  # the shards of a run may share a folder
        path = self.path / ("rows.jsonl" if shard.count == 1 else f"rows{part}.jsonl")
        with file_lock(self.path / f".lock{part}", timeout=1):
            if not resume and path.exists() and path.stat().st_size:
                raise EvaluationError(
                    f"{self.path} already has results; continue with --resume, or name another folder."
                )
            if path.exists() and (data := path.read_bytes()) and not data.endswith(b"\n"):
                os.truncate(path, data.rfind(b"\n") + 1)  # the incomplete last line of a killed process
            # Lone surrogates in a prediction become question marks.
            with path.open("a", encoding="utf-8", errors="replace", newline="\n") as file:

                def add(row: Row) -> None:
                    file.write(json.dumps({"config": self.key, **row}, ensure_ascii=False) + "\n")
                    file.flush()
                    os.fsync(file.fileno())

                yield add


@dataclass(frozen=True)
class Progress:
    """The progress of a shard: items done (earlier runs included), all items, and failed ones."""

    done: int
    total: int
    failed: int
    task: str


def run(
    jobs: Sequence[Any],
    work: Callable[[Any], Mapping[str, Any]],
    folder: ResultFolder,
    *,
    shard: Shard | None = None,
    resume: bool = False,
    retry: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Run `jobs`, or those of a shard, writing a row for each as it finishes; returns the final progress.

    A failing job is written with its error, and the run continues. With `resume`, jobs that have a row are skipped, but
    for failed ones with `retry`; a killed run that is resumed ends with the same rows as an uninterrupted one.

    Args:
        jobs: items, or anything with a `task`, an `id` that is unique within it, and `facts`, which a report groups by.
        work: returns the fields of a job's row.
        progress: called before every job and at the end.

    Raises:
        EvaluationError: two jobs have the same task and id, or a row is damaged; see also `ResultFolder.appending`.
    """
    shard = shard or Shard()
    for (task, name), count in Counter((job.task, job.id) for job in jobs).items():
        if count > 1:  # they would share a row
            raise EvaluationError(f"{count} items of {task} are called {name!r}; give each its own name.")
    mine = list(enumerate(jobs))[shard.index - 1 :: shard.count]
    show = progress or (lambda _: None)
    failed = 0
    with folder.appending(shard, resume=resume) as add:
        known = _latest(folder.path, folder.key) if resume else {}
        for done, (place, job) in enumerate(mine):
            show(Progress(done, len(mine), failed, job.task))
            row = known.get((job.task, job.id))
            if row is None or (retry and "error" in row):
                row = {"task": job.task, "id": job.id, "place": place, "facts": dict(job.facts)}
                try:
                    row |= work(job)
                except Exception as error:  # one failing item must not end the run; its row has the error
                    row["error"] = f"{type(error).__name__}: {error}"
                add(row)
            failed += "error" in row
        end = Progress(len(mine), len(mine), failed, "")
        show(end)
    return end


@dataclass(frozen=True)
class Results:
    """The rows and the configuration of one result folder."""

    folder: Path
    config: Mapping[str, Any]
    rows: Sequence[Row]

    @classmethod
    def open(cls, folder: Path) -> Results:
        """Load a result folder; EvaluationError if it is not one, or is damaged."""
        return cls(folder, read_config(folder), read_rows_of(folder))

    @property
    def benchmark(self) -> str:
        """The benchmark: "longbench", "infinitebench", "passkey", "needle", "natural" or "perplexity"."""
        return str(self.config.get("benchmark"))

    @property
    def mode(self) -> str:
        """The name of the mode."""
        return str(self.config.get("mode"))

    @cached_property
    def table(self) -> pd.DataFrame:
        """The rows as a table with fields, facts, usage, timings, ``failed`` and ``score`` (0 if failed)."""
        table = needed("pandas", "plot").json_normalize(list(self.rows))
        table = table.rename(columns=lambda name: name.rpartition(".")[2])
        table = table.reindex(columns=table.columns.union(_COLUMNS, sort=False))
        scores = [
            score(row["task"], row["prediction"], row["answers"], row.get("all_classes"))
            if "prediction" in row
            else 0.0
            for row in self.rows
        ]
        return table.assign(failed=table["error"].notna(), score=scores, nats=table["nll"] * table["targets"])

    def figures(self, *names: str) -> pd.DataFrame:
        """Means grouped by ``task``, by a fact, or by several of them, in the order of the rows.

        Returns:
            The columns "value", "items" (rows of the group) and "failed" (those with an error). The value of scores is
            from 0 to 100 with 2 digits, as in the benchmarks, and failed rows count as 0; the value of perplexities
            is the exponential of the mean cross entropy over all target tokens, without failed rows.
        """
        groups = self.table.groupby(list(names), dropna=False, sort=False)
        if self.benchmark == "perplexity":
            value = (groups["nats"].sum() / groups["targets"].sum()).map(math.exp)
        else:
            value = (100 * groups["score"].mean()).round(2)
        return value.to_frame("value").assign(items=groups.size(), failed=groups["failed"].sum())


def open_all(paths: Sequence[Path]) -> list[Results]:
    """All results in these folders and their subfolders; EvaluationError if a path has none or damaged ones."""
    folders: list[Path] = []
    for path in paths:
        below = sorted(config.parent for config in path.rglob(CONFIG)) if path.is_dir() else []
        if not below:
            raise EvaluationError(f"{path} has no results of focusdoc eval; name the --output of a run.")
        folders += below
    return [Results.open(folder) for folder in dict.fromkeys(folders)]


def by_name(results: Sequence[Results]) -> dict[str, Results]:
    """The results of one benchmark by a unique name: the mode, and the folder if several have the same mode."""
    results = sorted(results, key=lambda one: MODES.index(one.mode) if one.mode in MODES else len(MODES))
    modes = [one.mode for one in results]
    named: dict[str, Results] = {}
    for one in results:
        name = one.mode if modes.count(one.mode) == 1 else f"{one.mode} ({one.folder.parent.name})"
        named[name if name not in named else f"{one.mode} ({one.folder})"] = one
    return named


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
    return _in_order(_latest(folder, _config_key(read_config(folder))).values())


def merge(folders: Sequence[Path], output: Path) -> int:
    """Merge the rows of several folders with the same configuration; returns their number.

    Raises:
        EvaluationError: the configurations differ, or `output` has rows.
    """
    config = read_config(folders[0])
    rows: dict[tuple[str, str], Row] = {}
    for folder in folders:
        _check_same(folder, config)
        for row in read_rows_of(folder):
            if "error" in rows.get((row["task"], row["id"]), {"error": ""}):
                rows[row["task"], row["id"]] = row
    with ResultFolder(output, config).appending(Shard(), resume=False) as add:
        for row in _in_order(rows.values()):
            add(row)
    return len(rows)


def _config_key(config: Mapping[str, Any]) -> str:
    """The first 12 hex digits of a configuration's hash."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]


def _latest(folder: Path, key: str) -> dict[tuple[str, str], Row]:
    """Of all shards' rows with the configuration `key`, the latest one without an error of every task and id."""
    found: dict[tuple[str, str], Row] = {}
    for path in sorted(path for path in folder.iterdir() if _ROWS.fullmatch(path.name)):
        for row in read_rows(path, ("task", "id", "place"), torn=True):
            name = row["task"], row["id"]
            if row.get("config") == key and ("error" not in row or "error" in found.get(name, row)):
                found[name] = row
    return found


def _in_order(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row["place"], row["task"], row["id"]))


def _check_same(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Raise EvaluationError, naming a setting that differs, unless `folder` has the configuration `wanted`."""
    found = read_config(folder)
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise EvaluationError(
                f"{folder} has results of another configuration: {name} is {found.get(name)!r} there and "
                f"{wanted.get(name)!r} here; name another folder."
            )
