"""The report: a table of measurements, the project's targets, and figures as the paper's Figures 3 and 4."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from benchmarks.speed.cases import CONTENDERS, MACHINE
from focusdoc.evaluation.page import EMPTY, Plot, Section, lines, short, write_sections, written
from focusdoc.evaluation.results import Results

#: Contenders with the model's weights in their dtype, whose bytes and operations are known.
_OWN_WEIGHTS = ("focus", "int8", "look", "full")


@dataclass(frozen=True)
class Target:
    """A target: a ratio within one run on one machine, `above` of the other contender over `below` of ours.

    Attributes:
        name: a description, with ``{}`` for the measured length.
        length: the length of the target.
        reach: the value, the smallest to meet the target if `at_least`, else the largest.
        above, below: columns of `measured`; `below` defaults to `above`.
        ours, other: contenders.
        unit: of the value.
    """

    name: str
    length: int
    reach: float
    above: str
    below: str = ""
    ours: str = "focus"
    other: str = "focus"
    at_least: bool = True
    unit: str = "x"

    def met(self, figure: float) -> bool:
        """Whether `figure` meets the target."""
        return figure >= self.reach if self.at_least else figure <= self.reach

    def __str__(self) -> str:
        return f"at {'least' if self.at_least else 'most'} {self.written(self.reach)} at {short(self.length)}"

    def written(self, figure: float) -> str:
        """Format a value with its unit."""
        return f"{figure:.0%}" if self.unit == "%" else f"{figure:.3g}{self.unit}"


TARGETS = (
    Target("reading {} against transformers' full attention", 32_768, 8, "read_seconds", other="full"),
    Target("a token at {} against transformers' full attention", 32_768, 5, "token_seconds", other="full"),
    Target("a token at {} against llama.cpp (4-bit weights)", 8192, 1, "token_seconds", other="llama.cpp"),
    Target("a token at {} against the paper's decoding", 16_384, 50, "token_seconds", other="paper"),
    Target("second question at {} against the first, reading included", 32_768, 20, "first_seconds", "second_seconds"),
    Target("seconds to reopen {} in a new process", 131_072, 3, "reopen_seconds", "one", at_least=False, unit=" s"),
    Target(
        "peak memory at {} against the keys and values' own bytes", 131_072, 1.15, "peak_bytes", "kv_bytes",
        at_least=False,
    ),
    Target(
        "peak memory at {} in 8 bits against the keys and values as computed", 131_072, 0.65, "peak_bytes",
        "kv_bytes_as_computed", "int8", "int8", at_least=False,
    ),
    Target("a token at {} in 8 bits against as computed", 131_072, 1, "token_seconds", ours="int8"),
    Target("pass keys found in {}, reopened", 409_600, 1, "right", "one", "far", "far", unit="%"),
    Target(
        "memory of each process that reads, stores, reopens and asks {}", 409_600, 20, "process_gb", "one", "far",
        "far", at_least=False, unit=" GB",
    ),
    Target("share of the machine's matrix products while reading {}", 32_768, 0.75, "products", "one", unit="%"),
    Target(
        "reading {} against reading a quarter of it", 131_072, 4.3, "read_seconds", "quarter_seconds", at_least=False
    ),
)  # fmt: skip
#: The columns of the table of measurements: heading, column of `measured`, format.
_COLUMNS = (
    ("tokens", "tokens", "{:,.0f}"),
    ("read, s", "read_seconds", "{:.3g}"),
    ("tokens/s", "speed", "{:,.0f}"),
    ("first token, s", "first_seconds", "{:.3g}"),
    ("second question, s", "second_seconds", "{:.3g}"),
    ("a token, s", "token_seconds", "{:.3g}"),
    ("stored, s", "store_seconds", "{:.3g}"),
    ("reopened, s", "reopen_seconds", "{:.3g}"),
    ("peak, MiB", "peak_mib", "{:,.0f}"),
    ("peak / KV", "peak_per_kv", "{:.2f}"),
    ("pass keys found", "right", "{:.0%}"),
    ("matrix products", "products", "{:.0%}"),
    ("bandwidth", "of_bandwidth", "{:.0%}"),
)
#: File name, caption, unit and column of each figure. Memory is the paper's Figure 3, times are its Figure 4.
_FIGURES = (
    ("memory", "Peak memory beyond the weights", "MiB", "peak_mib"),
    ("first_token", "To the first token, reading included", "seconds", "first_seconds"),
    ("second_question", "A second question, to its first token", "seconds", "second_seconds"),
    ("token", "Each further token", "seconds", "token_seconds"),
)
#: Columns of which each row has some.
_MEASURED = (
    *("tokens", "read_seconds", "store_seconds", "first_seconds", "second_seconds", "token_seconds", "reopen_seconds"),
    *("kv_bytes", "kv_bytes_as_computed", "peak_bytes", "process_bytes", "reopened_process_bytes", "right"),
    *("operations", "bandwidth", "error", "reopen_note"),
)


def write_report(output: Path, omitted: Sequence[str]) -> list[Path]:
    """Write ``bench.md``, ``bench.html`` and the figures into the output folder; returns the paths.

    Raises:
        EvaluationError: there are no results.
    """
    return write_sections(sections(Results.open(output), omitted), output, "bench", "Speed and memory by length")


def sections(results: Results, omitted: Sequence[str]) -> list[Section]:
    """Targets and measurements, with notes on the machine and on omitted cases."""
    rows, rates, machine, table = *_rows(results), results.config, measured(results)
    shown = [column for column in _COLUMNS if table[column[1]].notna().any()]
    cells = zip(table["label"], *(table[name].map(written(form)) for _, name, form in shown), strict=True)
    notes = [
        f"{machine['model']} ({machine['dtype']}, adapter {machine['adapter'] or 'none'}) on {machine['device']}, "
        f"{machine['processor']}, {machine['threads']} threads of {machine['cores']} cores, torch {machine['torch']}, "
        f"focusdoc {machine['focusdoc']}. Of this machine: {rates['operations'] / 1e9:.0f} GFLOP/s in matrix products, "
        f"{rates['bandwidth'] / 1e9:.1f} GB/s from memory.",
        *(f"Not measured: {sentence}" for sentence in omitted),
    ]
    for column, what in (("error", " failed"), ("reopen_note", "")):
        failed = rows.dropna(subset=column)
        for label, length, why in zip(failed["label"], failed["length"], failed[column], strict=True):
            notes.append(f"Not measured: {label} at {short(length)}{what}: {why}")
    drawn = [
        Plot(caption, name, partial(lines, found, title=caption, x="tokens of the document", y=unit, log_y=True))
        for name, caption, unit, column in _FIGURES
        if not (found := series(table, column)).empty
    ]
    targets = [_target_row(target, *found) for target in TARGETS for found in figures(table, target)]
    header = ["contender", *(heading for heading, _, _ in shown)]
    return [
        Section("Targets", ["figure", "chunks of", "measured", "target", ""], targets),
        Section("Measurements", header, list(map(list, cells)), notes, drawn),
    ]


def measured(results: Results) -> pd.DataFrame:
    """The rows that did not fail, shortest first, with derived columns.

    ``products`` is the share of the machine's peak operations that the linear layers used while reading; attention,
    norms and copies take the rest. ``of_bandwidth`` is the share of the peak bandwidth for the bytes that a step has to
    read: all weights, candidate weights and KV. Both are only for contenders with the model's weights.
    """
    (rows, rates), config = _rows(results), results.config
    table = rows[~rows["failed"]].astype({"right": float})
    seconds = table.set_index(["task", "chunk_size", "length"])["read_seconds"].to_dict()
    keys = zip(table["task"], table["chunk_size"], table["length"] // 4, strict=True)
    own = table["task"].isin(_OWN_WEIGHTS)
    candidates = config["candidate_bytes"] * table["task"].isin(("focus", "int8"))
    step_bytes = config["weight_bytes"] + candidates + table["kv_bytes"]
    # A look reads the lower layers alone, and keeps no KV of the others.
    layers_read = (table["kv_bytes"] / table["kv_bytes_as_computed"]).where(table["task"] == "look", 1.0)
    operations = config["linear_operations_per_token"] * table["tokens"] * layers_read
    return table.assign(
        one=1.0,
        speed=table["tokens"] / table["read_seconds"],
        peak_mib=table["peak_bytes"] / 2**20,
        peak_per_kv=table["peak_bytes"] / table["kv_bytes"],
        process_gb=table[["process_bytes", "reopened_process_bytes"]].max(axis=1, skipna=False) / 1e9,
        quarter_seconds=[seconds.get(key) for key in keys],
        products=(operations / table["read_seconds"] / rates["operations"]).where(own),
        of_bandwidth=(step_bytes / table["token_seconds"] / rates["bandwidth"]).where(own),
    )


def _rows(results: Results) -> tuple[pd.DataFrame, pd.Series]:
    """The rows of all contenders with labels, shortest first; and the machine's rates."""
    rows = results.table.reindex(columns=results.table.columns.union(_MEASURED, sort=False))
    place = rows["task"].map({name: place for place, name in enumerate(CONTENDERS)})
    chunks = rows["chunk_size"].map(lambda size: f", chunks of {size:,}" if size else "")
    rows = rows.assign(label=rows["task"] + chunks, place=place).sort_values(["length", "place", "chunk_size"])
    return rows[rows["task"] != MACHINE], rows[rows["task"] == MACHINE].iloc[0]


def figures(table: pd.DataFrame, target: Target) -> Iterator[tuple[int, int | None, float | None]]:
    """For every chunk size of ours: the size, and the length and the value measured for a target.

    The length is the target's, else the longest measured one, or None.
    """
    for size, ours in table[table["task"] == target.ours].groupby("chunk_size"):
        other = table[(table["task"] == target.other) & table["chunk_size"].isin((size, 0))]
        above, below = (rows.set_index("length") for rows in (other, ours))
        found = (above[target.above] / below[target.below or target.above]).dropna()
        length = target.length if target.length in found else found.index.max() if len(found) else None
        yield int(size), length, None if length is None else float(found[length])


def series(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """A column of `measured` as a table: rows by length, a column for each contender and chunk size."""
    grid = table.pivot(index="length", columns="label", values=column)[list(dict.fromkeys(table["label"]))]
    return grid.dropna(axis="columns", how="all")


def _target_row(target: Target, size: int, length: int | None, figure: float | None) -> list[str]:
    # A value at another length is shown for orientation and neither meets nor misses the target.
    if length is None or figure is None:
        length, text, verdict = target.length, EMPTY, "not measured"
    else:
        verdict = "other length" if length != target.length else "met" if target.met(figure) else "missed"
        text = target.written(figure)
    return [target.name.format(short(length)), f"{size:,}", text, str(target), verdict]
