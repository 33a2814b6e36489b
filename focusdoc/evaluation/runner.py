"""Running a benchmark item by item; each result or error is written as soon as it is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from focusdoc.errors import EvaluationError
from focusdoc.evaluation.results import ResultFolder, Shard


class Job(Protocol):
    """An item of a run."""

    @property
    def task(self) -> str:
        """The benchmark's name of the task."""
        ...

    @property
    def id(self) -> str:
        """Unique within the task."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a report groups by."""
        ...


J = TypeVar("J", bound=Job)


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
    """Run `jobs`, writing a row for each as it finishes.

    A failing job is written with its error, and the run continues. A killed run that is resumed ends with the same rows
    as an uninterrupted one.

    Args:
        work: returns the fields of a job's row.
        shard: the part of the jobs to run; None for all.
        resume: skip jobs that already have a row.
        retry: with `resume`, run failed jobs again.
        progress: called before every job and at the end.

    Returns:
        The final progress.

    Raises:
        EvaluationError: two jobs have the same task and id; see also `ResultFolder.appending`.
    """
    shard = shard or Shard()
    _check_names(jobs)
    mine = [(place, job) for place, job in enumerate(jobs) if shard.holds(place)]
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


def _check_names(jobs: Sequence[Job]) -> None:
    """Raise EvaluationError for jobs with the same key, which would share a row."""
    names = Counter((job.task, job.id) for job in jobs)
    for (task, name), count in names.items():
        if count > 1:
            raise EvaluationError(f"{count} items of {task} are called {name!r}; give each its own name.")
