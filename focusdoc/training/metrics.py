"""Metrics of a training run: a line of JSON for every step, TensorBoard events, and a summary for the adapter."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from focusdoc.errors import TrainingError
from focusdoc.storage import atomic_write

#: Most points of each curve in the adapter's record.
CURVE_POINTS = 100


class Metrics:
    """The metrics of the run in `folder`: ``metrics.jsonl``, and ``tensorboard/`` if asked for and installed."""

    def __init__(self, folder: Path, *, tensorboard: bool = False) -> None:
        self._path = folder / "metrics.jsonl"
        self._events_folder = folder / "tensorboard" if tensorboard else None
        self._events: Any = None

    def add(self, row: Mapping[str, Any]) -> None:
        """Append the row of one step: ``step``, ``losses`` by objective, numbers, and perhaps ``held_out`` results.

        Raises:
            TrainingError: it cannot be written (a full disk).
        """
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise TrainingError(
                f"{self._path} cannot be written ({error.strerror}); the last checkpoint is kept: free some space and "
                "resume."
            ) from error
        if self._events is None and self._events_folder is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                self._events_folder = None
            else:
                # purge_step hides the events that a killed run wrote after its last checkpoint.
                self._events = SummaryWriter(str(self._events_folder), purge_step=row["step"])
        if events := self._events:
            for name, value in row.items():
                if isinstance(value, Mapping):  # named like losses/words
                    for inner, number in value.items():
                        events.add_scalar(f"{name}/{inner}", number, row["step"])
                elif name != "step":
                    events.add_scalar(name, value, row["step"])

    def rows(self) -> list[dict[str, Any]]:
        """All rows so far, without a line that a killed process left incomplete."""
        if not self._path.exists():
            return []
        *lines, _ = self._path.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines]

    def truncate(self, step: int) -> None:
        """Drop the rows after `step`, the last checkpoint of a killed run, since those steps run again."""
        if self._path.exists():
            kept = [row for row in self.rows() if row["step"] <= step]
            atomic_write(self._path, "".join(f"{json.dumps(row)}\n" for row in kept).encode())

    def close(self) -> None:
        """Flush the event file."""
        if self._events is not None:
            self._events.flush()

    def summary(self) -> dict[str, Any]:
        """Curves and held-out results for the adapter's record."""
        rows = self.rows()
        evaluations = [{"step": row["step"], **row["held_out"]} for row in rows if row.get("held_out")]
        return {"curves": {"loss": loss_curves(rows)}, "held_out_results": evaluations[-CURVE_POINTS:]}


def loss_curves(rows: Sequence[Mapping[str, Any]], points: int = CURVE_POINTS) -> dict[str, list[list[float]]]:
    """For each objective at most `points` pairs [step, mean loss since the previous pair]."""
    width = -(-len(rows) // points) or 1
    curves: dict[str, list[list[float]]] = defaultdict(list)
    for start in range(0, len(rows), width):
        window = rows[start : start + width]
        for objective, loss in means(pair for row in window for pair in row["losses"].items()).items():
            curves[objective].append([window[-1]["step"], round(loss, 4)])
    return dict(curves)


def means(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The mean of the values of each name."""
    named: dict[str, list[float]] = defaultdict(list)
    for name, value in values:
        named[name].append(value)
    return {name: sum(each) / len(each) for name, each in named.items()}
