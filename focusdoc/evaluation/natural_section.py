"""Of a report: one table for each file of natural questions, with a line for each mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from focusdoc.evaluation.mode_names import NO_READER
from focusdoc.evaluation.natural_scores import COLUMNS, interval, of_answer, of_finding
from focusdoc.evaluation.section import EMPTY, Section, named_results, notes_on
from focusdoc.evaluation.summary import Results


def natural_sections(results: Sequence[Results]) -> Iterator[Section]:
    """The tables of natural questions, file by file."""
    files = list(dict.fromkeys(str(one.config["file"]) for one in results))
    for file in files:
        named = named_results([one for one in results if one.config["file"] == file])
        told = {name: _measures(one) for name, one in named.items()}
        there = {column for rows in told.values() for row in rows for column in row}
        columns = [column for column in COLUMNS if column in there]
        header = ["mode", "questions", *columns, "characters of the first", "tokens of all", "first token, s", "all, s"]
        lines = []
        for name, one in named.items():
            cells = [_interval([row.get(column) for row in told[name]]) for column in columns]
            lines.append([name, f"{len(one.rows):,}", *cells, *_costs(one)])
        intervals = "In brackets: 95% of the means of questions drawn from these with replacement (bootstrap)."
        yield Section(f"Natural questions: {file}", header, lines, [intervals, *notes_on(named, "task")])


def _measures(one: Results) -> list[dict[str, float]]:
    """The scores of every row, none of one that failed."""
    written = one.config.get("reader") != NO_READER
    return [{} if "error" in row else {**(of_answer(row) if written else {}), **of_finding(row)} for row in one.rows]


def _interval(values: Sequence[float | None]) -> str:
    """The mean times 100 with its interval; a row that failed counts 0."""
    if all(value is None for value in values):
        return EMPTY
    known = [value or 0.0 for value in values]
    low, high = interval(known)
    return f"{100 * sum(known) / len(known):.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _costs(one: Results) -> list[str]:
    """Means over the rows that did not fail: sizes of passages, seconds to the first token, and in all."""
    rows = [row for row in one.rows if "error" not in row]
    if not rows:
        return [EMPTY] * 4
    firsts = [row["passages"][0] for row in rows if row.get("passages")]
    characters = f"{sum(end - start for start, end in firsts) / len(firsts):,.0f}" if firsts else EMPTY
    tokens = sum(row["usage"]["passage_tokens"] for row in rows) / len(rows)
    first = sum(row["timings"]["first_token"] for row in rows) / len(rows)
    decode = sum(row["timings"]["decode"] for row in rows) / len(rows)
    return [characters, f"{tokens:,.0f}", f"{first:.2f}", f"{first + decode:.2f}"]
