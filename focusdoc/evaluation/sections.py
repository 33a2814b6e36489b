"""What a report says: a section for each benchmark, in the paper's layout, from the rows of its modes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from focusdoc.evaluation import plots
from focusdoc.evaluation.longbench import KINDS
from focusdoc.evaluation.natural_section import natural_sections
from focusdoc.evaluation.plots import short
from focusdoc.evaluation.reference import Reference
from focusdoc.evaluation.section import EMPTY, Plot, Section, named_results, notes_on
from focusdoc.evaluation.summary import Figure, Results

_MIB = 2**20
#: The column of the figures that are not ours.
PAPER = "paper's own"

TITLES = {
    "longbench": "LongBench (paper: Table 6)",
    "infinitebench": "InfiniteBench",
    "passkey": "Passkey retrieval (paper: Figure 1)",
    "needle": "Needle in a book",
    "perplexity": "Perplexity (paper: Table 1, Figure 5)",
    "natural": "Natural questions",
}


def sections(results: Sequence[Results], reference: Reference) -> Iterator[Section]:
    """The sections of a report, benchmark by benchmark."""
    for benchmark, title in TITLES.items():
        found = [one for one in results if one.benchmark == benchmark]
        if not found:
            continue
        if benchmark == "natural":
            yield from natural_sections(found)
            continue
        named = named_results(found)
        if benchmark in ("longbench", "infinitebench"):
            yield _by_task(title, benchmark, named, reference)
        if benchmark == "infinitebench" and len(set().union(*(one.by("length") for one in found)) - {None}) > 1:
            yield _by_length("InfiniteBench, generated, by length", benchmark, named, None)
        elif benchmark == "passkey":
            yield _by_length(title, benchmark, named, reference)
        elif benchmark == "needle":
            yield from _needle(title, named)
        elif benchmark == "perplexity":
            yield from _perplexity(title, named, reference)
        if benchmark != "perplexity" and any(_has(one, "length") for one in found):
            yield _cost(title, benchmark, named)


def _by_task(title: str, benchmark: str, named: Mapping[str, Results], reference: Reference) -> Section:
    figures = {name: one.by("task") for name, one in named.items()}
    present = {task for of_mode in figures.values() for task in of_mode}
    order = [task for tasks in KINDS.values() for task in tasks] if benchmark == "longbench" else []
    tasks = [task for task in order if task in present] + sorted(present - set(order))
    rows = [
        [task, *(_cell(figures[name].get(task)) for name in named), _number(reference.of(benchmark, task))]
        for task in tasks
    ]
    shared = [task for task in tasks if all(task in of_mode for of_mode in figures.values())]
    if len(shared) > 1:
        means = [_mean([figures[name][task] for task in shared]) for name in named]
        known = [reference.of(benchmark, task) for task in shared]
        whole = [figure for figure in known if figure is not None]
        paper = sum(whole) / len(whole) if len(whole) == len(shared) else None
        rows.append([f"mean of {len(shared)} tasks", *map(_number, means), _number(paper)])
    return Section(title, ["task", *named, PAPER], rows, [*notes_on(named, "task"), _source(reference)])


def _by_length(title: str, benchmark: str, named: Mapping[str, Results], reference: Reference | None) -> Section:
    keys = ("length",) if benchmark == "passkey" else ("task", "length")
    figures = {name: one.by(*keys) for name, one in named.items()}
    places = sorted({key for of_mode in figures.values() for key in of_mode if _length(key) is not None})
    rows = []
    for key in places:
        label = short(key) if benchmark == "passkey" else f"{key[0]} at {short(key[1])}"
        row = [label, *(_cell(figures[name].get(key)) for name in named)]
        rows.append(row + ([_number(reference.of(benchmark, key))] if reference else []))
    header = ["tokens" if benchmark == "passkey" else "task", *named]
    header += [PAPER] if reference else []
    notes = notes_on(named, *keys) + ([_source(reference)] if reference else [])
    drawn: list[Plot] = []
    if benchmark == "passkey":
        series = {
            name: {key: figure.value for key, figure in of_mode.items() if figure.value is not None}
            for name, of_mode in figures.items()
        }
        drawn.append(
            Plot(
                "Pass keys found, by length",
                "passkey",
                lambda: plots.lines(series, title="Passkey retrieval", x="tokens", y="found, %", top=100),
            )
        )
    return Section(title, header, rows, notes, drawn)


def _needle(title: str, named: Mapping[str, Results]) -> Iterator[Section]:
    for name, one in named.items():
        figures = one.by("depth", "length")
        depths = sorted({key[0] for key in figures})
        lengths = sorted({key[1] for key in figures})
        cells = [[_value(figures.get((depth, length))) for length in lengths] for depth in depths]
        rows = [[f"{depth:.0%}", *(_cell(figures.get((depth, length))) for length in lengths)] for depth in depths]

        def draw(cells: Any = cells, depths: Any = depths, lengths: Any = lengths, name: str = name) -> bytes:
            return plots.heat_map(
                cells,
                rows=[f"{depth:.0%}" for depth in depths],
                columns=[short(length) for length in lengths],
                title=f"Needles found, % ({name})",
                x="tokens",
                y="depth",
            )

        plot = Plot(f"Needles found by depth and length, {name}", f"needle-{_slug(name)}", draw)
        header = ["depth", *map(short, lengths)]
        yield Section(f"{title}, {name}", header, rows, notes_on({name: one}, "depth", "length"), [plot])


def _perplexity(title: str, named: Mapping[str, Results], reference: Reference) -> Iterator[Section]:
    figures = {name: one.by("length", "chunk_size") for name, one in named.items()}
    sizes = {key[1] for of_mode in figures.values() for key in of_mode if key[1] is not None}
    columns: dict[str, dict[int, Figure]] = {}
    for name, of_mode in figures.items():
        for (length, size), figure in of_mode.items():
            label = f"{name}, chunks of {size:,}" if size is not None and len(sizes) > 1 else name
            columns.setdefault(label, {})[length] = figure
    lengths = sorted({length for column in columns.values() for length in column})
    rows = [
        [
            short(length),
            *(_cell(column.get(length)) for column in columns.values()),
            _number(reference.of("perplexity", length)),
        ]
        for length in lengths
    ]
    header = ["tokens", *columns, PAPER]
    by_length: dict[str, dict[float, float]] = {
        label: {length: figure.value for length, figure in column.items() if figure.value is not None}
        for label, column in columns.items()
    }
    drawn = [
        Plot(
            "Perplexity of the last tokens, by length",
            "perplexity-length",
            lambda: plots.lines(by_length, title="Perplexity by length", x="tokens", y="perplexity", log_y=True),
        )
    ]
    if len(sizes) > 1:
        by_size: dict[str, dict[float, float]] = {}
        for name, of_mode in figures.items():
            for (length, size), figure in of_mode.items():
                if size is not None and figure.value is not None:
                    by_size.setdefault(f"{name}, {short(length)}", {})[size] = figure.value
        drawn.append(
            Plot(
                "Perplexity by chunk size",
                "perplexity-chunk-size",
                lambda: plots.lines(by_size, title="Perplexity by chunk size", x="tokens of a chunk", y="perplexity"),
            )
        )
    yield Section(title, header, rows, [*notes_on(named, "length", "chunk_size"), _source(reference)], drawn)


def _cost(title: str, benchmark: str, named: Mapping[str, Results]) -> Section:
    """Memory and time by length, as they were measured beside the answers."""
    held = {name: one.means("length", lambda row: row["usage"]["kv_bytes"] / _MIB) for name, one in named.items()}
    spent = {name: one.means("length", lambda row: sum(row["timings"].values())) for name, one in named.items()}
    lengths = sorted({length for of_mode in held.values() for length in of_mode})
    rows = [
        [short(length)]
        + [f"{held[name][length]:,.0f}" if length in held[name] else EMPTY for name in named]
        + [f"{spent[name][length]:,.1f}" if length in spent[name] else EMPTY for name in named]
        for length in lengths
    ]
    header = ["tokens", *(f"MiB, {name}" for name in named), *(f"seconds, {name}" for name in named)]
    drawn = [
        Plot(
            "Keys and values held, by length",
            f"{benchmark}-memory",
            lambda: plots.lines(held, title="Memory", x="tokens", y="MiB of keys and values", log_y=True),
        ),
        Plot(
            "Time of an answer, reading included, by length",
            f"{benchmark}-time",
            lambda: plots.lines(spent, title="Time", x="tokens", y="seconds", log_y=True),
        ),
    ]
    notes = ["Means over the items that did not fail; seconds from the prompt to the whole answer, reading included."]
    return Section(f"Memory and time: {title}", header, rows, notes, drawn)


def _source(reference: Reference) -> str:
    return f"{PAPER}: {reference.source}; a figure that is not at hand is left out."


def _has(one: Results, fact: str) -> bool:
    return any(row["facts"].get(fact) is not None for row in one.rows)


def _length(key: Any) -> Any:
    return key[1] if isinstance(key, tuple) else key


def _value(figure: Figure | None) -> float | None:
    return figure.value if figure else None


def _cell(figure: Figure | None) -> str:
    return _number(_value(figure))


def _number(value: float | None) -> str:
    return EMPTY if value is None else f"{value:.2f}"


def _mean(figures: Sequence[Figure]) -> float | None:
    values = [figure.value for figure in figures if figure.value is not None]
    return sum(values) / len(values) if values else None


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name).strip("-")
