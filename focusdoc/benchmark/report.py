"""What was measured as a Markdown table with the targets beside it, and as the paper's Figures 3 and 4."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from focusdoc.benchmark.roofline import decoding_share, reading_share
from focusdoc.benchmark.runner import load_results
from focusdoc.benchmark.targets import Reached, reached
from focusdoc.evaluation.plots import lines, short
from focusdoc.storage import atomic_write

Results = Mapping[str, Any]
Row = Mapping[str, Any]

_NONE = "-"
_MIB = 1 << 20


def write_report(output: Path) -> list[Path]:
    """Write ``bench.md`` and the figures beside ``bench.json``; returns what was written.

    Raises:
        EvaluationError: there are no results, or matplotlib is missing.
    """
    results = load_results(output)
    files = {"bench.md": markdown(results).encode(), **figures(results)}
    for name, data in files.items():
        atomic_write(output / name, data)
    return [output / name for name in files]


def markdown(results: Results) -> str:
    """Targets, measurements, what they were measured on, and what was left out."""
    machine, rates = results["configuration"], results["rates"]
    known = [row for row in results["rows"].values() if "error" not in row]
    failed = [row for row in results["rows"].values() if "error" in row]
    parts = [
        "# Speed and memory by length",
        f"{machine['model']} ({machine['dtype']}, adapter {machine['adapter'] or 'none'}) on {machine['device']}, "
        f"{machine['processor']}, {machine['threads']} threads of {machine['cores']} cores, torch {machine['torch']}, "
        f"focusdoc {machine['focusdoc']}. Of this machine: {rates['operations'] / 1e9:.0f} GFLOP/s in matrix products, "
        f"{rates['bandwidth'] / 1e9:.1f} GB/s from memory.",
    ]
    if targets := list(reached(results)):
        parts += ["## Targets", _table(_TARGET_HEADER, map(_target_row, targets))]
    columns = [column for column in _COLUMNS if any(column[1](row, results) != _NONE for row in known)]
    cells = ([text(row, results) for _, text in columns] for row in known)
    parts += ["## Measurements", _table([name for name, _ in columns], cells)]
    left_out = [
        *results["omitted"],
        *(f"{_label(row)} at {short(row['length'])} failed: {row['error']}" for row in failed),
    ]
    left_out += [
        f"{_label(row)} at {short(row['length'])}: {row['reopen_note']}" for row in known if "reopen_note" in row
    ]
    if left_out:
        parts += ["## Not measured", "\n".join(f"- {_escaped(sentence)}" for sentence in left_out)]
    parts += [f"![{caption}]({name})" for name, caption, _ in _FIGURES if series(results, name)]
    return "\n\n".join(parts) + "\n"


def figures(results: Results) -> dict[str, bytes]:
    """The figures that there are values for, as PNG by file name."""
    return {
        name: lines(found, title=caption, x="tokens of the document", y=unit, log_y=True)
        for name, caption, unit in _FIGURES
        if (found := series(results, name))
    }


def series(results: Results, name: str) -> dict[str, dict[float, float]]:
    """The lines of the figure called `name`: for each contender and chunk size, its values by length."""
    value = _VALUES[name]
    found: dict[str, dict[float, float]] = {}
    for row in results["rows"].values():
        if "error" not in row and (point := value(row)):
            found.setdefault(_label(row), {})[row["length"]] = point
    return found


#: File name, caption and unit of each figure. Memory is the paper's Figure 3, times are its Figure 4.
_FIGURES = (
    ("memory.png", "Peak memory beyond the weights", "MiB"),
    ("first_token.png", "To the first token, reading included", "seconds"),
    ("second_question.png", "A second question, to its first token", "seconds"),
    ("token.png", "Each further token", "seconds"),
)
_VALUES: Mapping[str, Callable[[Row], float | None]] = {
    "memory.png": lambda row: row["peak_bytes"] / _MIB if row.get("peak_bytes") else None,
    "first_token.png": lambda row: row.get("first_seconds"),
    "second_question.png": lambda row: row.get("second_seconds"),
    "token.png": lambda row: row.get("token_seconds"),
}


def _label(row: Row) -> str:
    return f"{row['contender']}, chunks of {row['chunk_size']:,}" if row["chunk_size"] else str(row["contender"])


def _seconds(name: str) -> Callable[[Row, Results], str]:
    return lambda row, _: f"{row[name]:.3g}" if row.get(name) is not None else _NONE


def _speed(row: Row, results: Results) -> str:
    return f"{row['tokens'] / row['read_seconds']:,.0f}" if row.get("read_seconds") else _NONE


def _memory(row: Row, results: Results) -> str:
    return f"{row['peak_bytes'] / _MIB:,.0f}" if row.get("peak_bytes") is not None else _NONE


def _per_kv(row: Row, results: Results) -> str:
    known = row.get("peak_bytes") is not None and row.get("kv_bytes")
    return f"{row['peak_bytes'] / row['kv_bytes']:.2f}" if known else _NONE


def _share(of: Callable[[Row, Results], float | None]) -> Callable[[Row, Results], str]:
    def text(row: Row, results: Results) -> str:
        share = of(row, results)
        return _NONE if share is None else f"{share:.0%}"

    return text


#: Every column of the table of measurements: its name, and the text of a row.
_COLUMNS: tuple[tuple[str, Callable[[Row, Results], str]], ...] = (
    ("contender", lambda row, _: _label(row)),
    ("tokens", lambda row, _: f"{row['tokens']:,}"),
    ("read, s", _seconds("read_seconds")),
    ("tokens/s", _speed),
    ("first token, s", _seconds("first_seconds")),
    ("second question, s", _seconds("second_seconds")),
    ("a token, s", _seconds("token_seconds")),
    ("stored, s", _seconds("store_seconds")),
    ("reopened, s", _seconds("reopen_seconds")),
    ("peak, MiB", _memory),
    ("peak / KV", _per_kv),
    ("pass key", lambda row, _: ("right" if row["right"] else "wrong") if "right" in row else _NONE),
    ("matrix products", _share(reading_share)),
    ("bandwidth", _share(decoding_share)),
)

_TARGET_HEADER = ("figure", "chunks of", "measured", "to reach", "")


def _target_row(found: Reached) -> list[str]:
    target = found.target
    if found.figure is None or found.length is None:
        return [
            target.name.format(length=short(target.length)),
            f"{found.chunk_size:,}",
            _NONE,
            str(target),
            "not measured",
        ]
    # A figure at another length than the target's shows where things stand, and meets or misses nothing.
    verdict = ("met" if target.met(found.figure) else "missed") if found.length == target.length else "other length"
    name = target.name.format(length=short(found.length))
    return [name, f"{found.chunk_size:,}", target.written(found.figure), str(target), verdict]


def _table(header: tuple[str, ...] | list[str], rows: Iterator[list[str]] | map[list[str]]) -> str:
    written = [f"| {' | '.join(header)} |", "|---|" + "---:|" * (len(header) - 1)]
    written += [f"| {' | '.join(map(_escaped, row))} |" for row in rows]
    return "\n".join(written)


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
