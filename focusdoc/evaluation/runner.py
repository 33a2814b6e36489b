"""Running a benchmark: one item after another, each written as it finishes, errors and all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from focusdoc.errors import EvaluationError
from focusdoc.evaluation.results import ResultFolder, Shard


class Job(Protocol):
    """Anything that a run works through."""

    @property
    def task(self) -> str:
        """The benchmark's name of the task."""
        ...

    @property
    def id(self) -> str:
        """Names it within its task."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a report groups by."""
        ...


J = TypeVar("J", bound=Job)


@dataclass(frozen=True)
class Progress:
    """Where a run is: items done of all of this shard, those of earlier runs among them, and how many failed."""

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
    """Work through `jobs`, writing a row for each as it finishes.

    An item that fails is written with its error, and the run goes on. A run that was killed, at whatever moment, and
    is resumed ends with the rows of an uninterrupted one.

    Args:
        work: gives the fields of a job's row.
        shard: the part of the jobs to do; None for all.
        resume: leave out what has a row already.
        retry: with `resume`, work again on what failed.
        progress: called before every item and at the end.

    Returns:
        Where the run stands at its end.

    Raises:
        EvaluationError: two jobs have one name, or see `ResultFolder.appending`.
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
                except Exception as error:  # whatever one item does must not end the run; its row says what it was
                    row["error"] = f"{type(error).__name__}: {error}"
                file.add(row)
            failed += "error" in row
        end = Progress(len(mine), len(mine), failed, "")
        if progress is not None:
            progress(end)
    return end


def _check_names(jobs: Sequence[Job]) -> None:
    """Refuse jobs of one name: the row of one would stand for both."""
    names = Counter((job.task, job.id) for job in jobs)
    for (task, name), count in names.items():
        if count > 1:
            raise EvaluationError(f"{count} items of {task} are called {name!r}; give each a name of its own.")
