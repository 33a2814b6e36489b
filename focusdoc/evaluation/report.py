"""Building a report from results: a section for each benchmark, in the paper's layout."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from focusdoc.errors import EvaluationError
from focusdoc.evaluation.item import NO_READER
from focusdoc.evaluation.loading import needed
from focusdoc.evaluation.natural_scores import COLUMNS, interval, of_answer, of_finding
from focusdoc.evaluation.official import LONGBENCH_TASKS
from focusdoc.evaluation.page import EMPTY, Plot, Section, heat_maps, lines, short, write_sections, written
from focusdoc.evaluation.results import Results, by_name, open_all

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = needed("pandas", "plot")

#: The name of the column with the paper's results.
PAPER = "paper's own"
_MIB = 2**20
TITLES = {
    "longbench": "LongBench (paper: Table 6)",
    "infinitebench": "InfiniteBench",
    "passkey": "Passkey retrieval (paper: Figure 1)",
    "needle": "Needle in a book",
    "perplexity": "Perplexity (paper: Table 1, Figure 5)",
    "natural": "Natural questions",
}


@dataclass(frozen=True)
class Reference:
    """The paper's results by benchmark and by task or length, and where they are from; a missing one is left empty.

    `figures` are like ``{"infinitebench": {"kv_retrieval": 12.4}, "passkey": {"4096": 100.0}, ...}``.
    """

    source: str
    figures: Mapping[str, Mapping[str, float]]


def load_reference(path: Path | None = None) -> Reference:
    """The paper's results, or those of a JSON file in the same format; EvaluationError if it cannot be read as such."""
    try:
        text = (path or files("focusdoc.evaluation").joinpath("paper.json")).read_text(encoding="utf-8")
        values: dict[str, Any] = json.loads(text)
        source = str(values.pop("source"))
        return Reference(source, {name: {k: float(v) for k, v in table.items()} for name, table in values.items()})
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise EvaluationError(
            f'The reference {path} is not JSON of the form {{"source": ..., "longbench": {{"qasper": 1.0}}}} ({error}).'
        ) from error


def write_report(paths: Sequence[Path], output: Path, reference: Reference) -> list[Path]:
    """Write ``report.md``, ``report.html`` and the figures of the results in `paths` or below; returns their paths.

    Raises:
        EvaluationError: a path has no results, they are damaged, or an optional package is missing.
    """
    return write_sections(list(sections(open_all(paths), reference)), output, "report", "focusdoc evaluation")


def sections(results: Sequence[Results], reference: Reference) -> Iterator[Section]:
    """The sections of a report, benchmark by benchmark."""
    for benchmark, title in TITLES.items():
        found = [one for one in results if one.benchmark == benchmark]
        named = by_name(found)
        if found and benchmark == "natural":
            yield from _natural(found)
        elif found and benchmark == "perplexity":
            yield _perplexity(title, named, reference)
        elif found:
            lengths = {length for one in found for length in one.table["length"].dropna()}
            if benchmark in ("longbench", "infinitebench"):
                yield _by_task(title, benchmark, named, reference)
            if benchmark == "infinitebench" and len(lengths) > 1:
                yield _by_task_and_length(named)
            elif benchmark == "passkey":
                yield _passkey(title, named, reference)
            elif benchmark == "needle":
                yield from (_needle(title, name, one) for name, one in named.items())
            if lengths:
                yield _cost(title, benchmark, named)


def overview(results: Sequence[Results]) -> list[Section]:
    """The results of one benchmark with a column for each mode, which a run prints at its end."""
    if results[0].benchmark == "natural":
        return list(_natural(results))
    names = ["length", "chunk_size"] if results[0].benchmark == "perplexity" else ["task", "length"]
    figures = [one.figures(*names).reset_index().assign(place=place) for place, one in enumerate(results)]
    rows = []
    for key, found in pd.concat(figures).sort_values(names).groupby(names, dropna=False, sort=False):
        label = " ".join(part if isinstance(part, str) else f"{part:,.0f}" for part in key if part == part)
        values = found.set_index("place")["value"].reindex(range(len(results)))
        counts = [
            f"{items:,}" + (f" ({failed:,} failed)" if failed else "")
            for items, failed in zip(found["items"], found["failed"], strict=True)
        ]
        rows.append([label, *values.map(written("{:.2f}", "")), ", ".join(dict.fromkeys(counts))])
    return [Section("", [" ".join(names).replace("_", " "), *(one.mode for one in results), "items"], rows)]


def _values(named: Mapping[str, Results], *names: str) -> pd.DataFrame:
    """A table with a column for each mode, indexed by the facts called `names`."""
    return pd.DataFrame({name: one.figures(*names)["value"] for name, one in named.items()}).sort_index()


def _section(
    title: str,
    table: pd.DataFrame,
    named: Mapping[str, Results],
    *names: str,
    first: str = "tokens",
    drawn: Sequence[Plot] = (),
    reference: Reference | None = None,
) -> Section:
    """A section with `table`, whose index becomes the first column, and with notes on its results by `names`."""
    label = short if first == "tokens" else str
    rows = [[label(key), *cells] for key, *cells in table.map(written("{:.2f}")).itertuples()]
    notes = _notes(named, *names)
    if reference is not None:
        notes.append(f"{PAPER}: {reference.source}; missing results are left empty.")
    return Section(title, [first, *table.columns], rows, notes, drawn)


def _with_paper(table: pd.DataFrame, benchmark: str, reference: Reference) -> pd.DataFrame:
    known = reference.figures.get(benchmark, {})
    keys = (f"{key:.0f}" if isinstance(key, float) else str(key) for key in table.index)
    return table.assign(**{PAPER: [known.get(key) for key in keys]}).astype(float)


def _by_task(title: str, benchmark: str, named: Mapping[str, Results], reference: Reference) -> Section:
    order = LONGBENCH_TASKS
    table = _values(named, "task")
    table = table.loc[sorted(table.index, key=lambda task: (order.index(task) if task in order else len(order), task))]
    table = _with_paper(table, benchmark, reference)
    shared = table.dropna(subset=list(named))
    if len(shared) > 1:
        table.loc[f"mean of {len(shared)} tasks"] = shared.mean(skipna=False)
    return _section(title, table, named, "task", first="task", reference=reference)


def _by_task_and_length(named: Mapping[str, Results]) -> Section:
    table = _values(named, "task", "length")
    table = table[table.index.get_level_values("length").notna()]
    table.index = [f"{task} at {short(length)}" for task, length in table.index]
    return _section("InfiniteBench, generated, by length", table, named, "task", "length", first="task")


def _passkey(title: str, named: Mapping[str, Results], reference: Reference) -> Section:
    found = _values(named, "length")
    table = _with_paper(found, "passkey", reference)
    draw = partial(lines, found, title="Passkey retrieval", x="tokens", y="found, %", top=100)
    drawn = [Plot("Pass keys found, by length", "passkey", draw)]
    return _section(title, table, named, "length", drawn=drawn, reference=reference)


def _needle(title: str, name: str, one: Results) -> Section:
    grid = one.figures("depth", "length")["value"].unstack().sort_index().sort_index(axis=1)
    grid = grid.rename(index="{:.0%}".format, columns=short).rename_axis(columns="tokens")
    draw = partial(heat_maps, {f"Needles found, % ({name})": grid}, percent=True)
    slug = re.sub(r"[\W_]", "-", name).strip("-")
    plot = Plot(f"Needles found by depth and length, {name}", f"needle-{slug}", draw)
    return _section(f"{title}, {name}", grid, {name: one}, "depth", "length", first="depth", drawn=[plot])


def _perplexity(title: str, named: Mapping[str, Results], reference: Reference) -> Section:
    figures = [one.figures("length", "chunk_size").reset_index().assign(mode=name) for name, one in named.items()]
    table = pd.concat(figures)
    many = table["chunk_size"].nunique() > 1
    sizes = table["chunk_size"].map(written(", chunks of {:,.0f}", "")) if many else ""
    by_length = _columns(table, table["mode"] + sizes, "length")
    draw = partial(lines, by_length, title="Perplexity by length", x="tokens", y="perplexity", log_y=True)
    drawn = [Plot("Perplexity of the last tokens, by length", "perplexity-length", draw)]
    if many:
        sized = table.dropna(subset="chunk_size")
        by_size = _columns(sized, sized["mode"] + ", " + sized["length"].map(short), "chunk_size")
        draw = partial(lines, by_size, title="Perplexity by chunk size", x="tokens of a chunk", y="perplexity")
        drawn.append(Plot("Perplexity by chunk size", "perplexity-chunk-size", draw))
    shown = _with_paper(by_length, "perplexity", reference)
    return _section(title, shown, named, "length", "chunk_size", drawn=drawn, reference=reference)


def _columns(table: pd.DataFrame, names: pd.Series, index: str) -> pd.DataFrame:
    """Pivot a table: rows by `index`, and a column for each of `names` in their order."""
    return table.assign(column=names).pivot(index=index, columns="column", values="value")[names.unique()]


def _cost(title: str, benchmark: str, named: Mapping[str, Results]) -> Section:
    """Memory and time by length."""
    means = {name: one.table.groupby("length").mean(numeric_only=True) for name, one in named.items()}
    held = pd.DataFrame({name: mean["kv_bytes"] / _MIB for name, mean in means.items()})
    seconds = ["read", "first_token", "decode"]
    spent = pd.DataFrame({name: mean[seconds].sum(axis=1, skipna=False) for name, mean in means.items()})
    cells = pd.concat([held.map(written("{:,.0f}")), spent.map(written("{:,.1f}"))], axis=1)
    rows = [[short(length), *values] for length, *values in cells.itertuples()]
    header = ["tokens", *(f"MiB, {name}" for name in named), *(f"seconds, {name}" for name in named)]
    memory = partial(lines, held, title="Memory", x="tokens", y="MiB of keys and values", log_y=True)
    time = partial(lines, spent, title="Time", x="tokens", y="seconds", log_y=True)
    drawn = [
        Plot("Keys and values held, by length", f"{benchmark}-memory", memory),
        Plot("Time of an answer, reading included, by length", f"{benchmark}-time", time),
    ]
    notes = ["Means over the items that did not fail; seconds from the prompt to the whole answer, reading included."]
    return Section(f"Memory and time: {title}", header, rows, notes, drawn)


def _natural(results: Sequence[Results]) -> Iterator[Section]:
    """A table for each file of natural questions, with a row for each mode."""
    for file in dict.fromkeys(str(one.config["file"]) for one in results):
        named = by_name([one for one in results if one.config["file"] == file])
        scores = {name: pd.DataFrame(_measures(one), columns=COLUMNS) for name, one in named.items()}
        columns = [column for column in COLUMNS if any(table[column].notna().any() for table in scores.values())]
        header = ["mode", "questions", *columns, "characters of the first", "tokens of all", "first token, s", "all, s"]
        rows = [
            [name, f"{len(one.rows):,}", *(_interval(scores[name][column]) for column in columns), *_costs(one)]
            for name, one in named.items()
        ]
        intervals = "In brackets: 95% confidence interval of the mean (bootstrap over questions)."
        yield Section(f"{TITLES['natural']}: {file}", header, rows, [intervals, *_notes(named, "task")])


def _measures(one: Results) -> list[dict[str, float]]:
    """The scores of every row, empty for failed ones."""
    read = one.config.get("reader") != NO_READER
    return [{} if "error" in row else {**(of_answer(row) if read else {}), **of_finding(row)} for row in one.rows]


def _interval(values: pd.Series) -> str:
    """The mean in percent with its confidence interval; failed rows count as 0."""
    if values.isna().all():
        return EMPTY
    known = values.fillna(0.0)
    low, high = interval(known)
    return f"{100 * known.mean():.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _costs(one: Results) -> list[str]:
    """Means over the rows that did not fail: sizes of passages, seconds to the first token, total seconds."""
    first = [row["passages"][0] for row in one.rows if row.get("passages")]
    width = pd.Series([end - start for start, end in first], dtype=float).mean()
    means = one.table[["passage_tokens", "first_token", "decode"]].mean()
    seconds = means["first_token"], means["first_token"] + means["decode"]
    return [*map(written("{:,.0f}"), (width, means["passage_tokens"])), *map(written("{:.2f}"), seconds)]


def _notes(named: Mapping[str, Results], *names: str) -> list[str]:
    """A note for each mode: the number of items behind its results by `names`, and its configuration."""
    notes = []
    for name, one in named.items():
        counts = one.figures(*names)["items"]
        fewest, most = min(counts, default=0), max(counts, default=0)
        each = f"{most}" if fewest == most else f"{fewest} to {most}"
        failed = one.table["failed"].sum()
        failures = f", {failed} of them failed" if failed else ""
        spread = f" for each of {len(counts)} rows, {len(one.rows)} in all" if len(counts) > 1 else ""
        hidden = ("benchmark", "mode", "allow_untrained")
        shown = [(key, value) for key, value in sorted(one.config.items()) if value is not None and key not in hidden]
        settings = ", ".join(f"{key} {value}" for key, value in shown)
        notes.append(f"{name}: {each} items{spread}{failures}. {settings}.")
    return notes
