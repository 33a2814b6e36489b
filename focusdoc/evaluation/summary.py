"""Aggregating results: rows are scored again from their predictions, then averaged over tasks, lengths and depths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from focusdoc.evaluation.item import MODES
from focusdoc.evaluation.needed import needed
from focusdoc.evaluation.results import Row, find_folders, read_config, read_rows_of
from focusdoc.evaluation.scores import score

if TYPE_CHECKING:
    import pandas as pd

#: Columns that every table has.
_COLUMNS = (
    *("task", "length", "depth", "chunk_size", "error", "nll", "targets", "kv_bytes", "read", "first_token", "decode"),
    "passage_tokens",
)


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


def named_results(results: Sequence[Results]) -> dict[str, Results]:
    """The results of one benchmark by a unique name: the mode, and the folder if several have the same mode."""
    order = list(MODES)
    results = sorted(results, key=lambda one: order.index(one.mode) if one.mode in order else len(order))
    modes = [one.mode for one in results]
    named: dict[str, Results] = {}
    for one in results:
        name = one.mode if modes.count(one.mode) == 1 else f"{one.mode} ({one.folder.parent.name})"
        named[name if name not in named else f"{one.mode} ({one.folder})"] = one
    return named


def open_all(paths: Sequence[Path]) -> list[Results]:
    """Load all results in these folders and their subfolders; EvaluationError if a path has none or damaged ones."""
    return [Results.open(folder) for folder in find_folders(paths)]
