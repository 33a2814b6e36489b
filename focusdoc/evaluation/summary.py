"""From rows to figures: each row scored anew from its prediction, then means over tasks, lengths and depths."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from focusdoc.evaluation.results import Row, read_config, read_rows_of
from focusdoc.evaluation.scoring import score


@dataclass(frozen=True)
class Figure:
    """A mean over rows.

    Attributes:
        value: 0 to 100 for scores, 1 and more for perplexities; None where there is nothing to average.
        items: rows it stands on.
        failed: of these, how many ended in an error. They count 0 in a score, and are left out of a perplexity.
    """

    value: float | None
    items: int
    failed: int


@dataclass(frozen=True)
class Results:
    """The rows of one result folder with its configuration."""

    folder: Path
    config: Mapping[str, Any]
    rows: Sequence[Row]

    @classmethod
    def open(cls, folder: Path) -> Results:
        """Read a result folder.

        Raises:
            EvaluationError: it is none, or damaged.
        """
        return cls(folder, read_config(folder), read_rows_of(folder))

    @property
    def benchmark(self) -> str:
        """Which benchmark: "longbench", "infinitebench", "passkey", "needle" or "perplexity"."""
        return str(self.config["benchmark"])

    @property
    def mode(self) -> str:
        """The mode that made them."""
        return str(self.config["mode"])

    def by(self, *names: str) -> dict[Any, Figure]:
        """A figure for every value of ``task`` or of a fact; of several names, for every tuple of values."""

        def key(row: Row) -> Any:
            values = tuple(row["task"] if name == "task" else row["facts"].get(name) for name in names)
            return values[0] if len(values) == 1 else values

        return self._grouped(key)

    def overall(self) -> Figure:
        """One figure over all rows."""
        return self._grouped(lambda row: None).get(None, Figure(None, 0, 0))

    def means(self, name: str, value: Callable[[Row], float]) -> dict[Any, float]:
        """The mean of `value` over the rows that did not fail, for every value of the fact `name`."""
        groups: dict[Any, list[float]] = {}
        for row in self.rows:
            if "error" not in row and row["facts"].get(name) is not None:
                groups.setdefault(row["facts"][name], []).append(value(row))
        return {key: sum(values) / len(values) for key, values in sorted(groups.items())}

    @cached_property
    def scores(self) -> list[float]:
        """The score of every row, 0 for a failed one."""
        return [row_score(row) for row in self.rows]

    def _grouped(self, key: Callable[[Row], Any]) -> dict[Any, Figure]:
        groups: dict[Any, list[int]] = {}
        for place, row in enumerate(self.rows):
            groups.setdefault(key(row), []).append(place)
        if self.benchmark == "perplexity":
            return {name: perplexity([self.rows[place] for place in places]) for name, places in groups.items()}
        return {name: self._mean(places) for name, places in groups.items()}

    def _mean(self, places: Sequence[int]) -> Figure:
        """The mean score times 100, to 2 digits, as the benchmarks give it."""
        failed = sum("error" in self.rows[place] for place in places)
        return Figure(round(100 * sum(self.scores[place] for place in places) / len(places), 2), len(places), failed)


def row_score(row: Row) -> float:
    """The score of a row by its task's official formula; 0 for a failed one."""
    if "error" in row:
        return 0.0
    return score(row["task"], row["prediction"], row["answers"], row.get("all_classes"))


def perplexity(rows: Sequence[Row]) -> Figure:
    """The exponential of the mean cross entropy over all target tokens."""
    counted = [row for row in rows if "error" not in row]
    targets = sum(row["targets"] for row in counted)
    value = math.exp(sum(row["nll"] * row["targets"] for row in counted) / targets) if targets else None
    return Figure(value, len(rows), len(rows) - len(counted))
