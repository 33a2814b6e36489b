"""A section of a report: a table, what belongs under it, and what its results are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from focusdoc.evaluation.mode_names import MODES
from focusdoc.evaluation.summary import Results

#: Of a cell without a figure.
EMPTY = "-"
_HIDDEN = frozenset({"benchmark", "mode", "allow_untrained"})


@dataclass(frozen=True)
class Plot:
    """A figure: what it shows, the name of its file, and how it is drawn (only when it is wanted)."""

    caption: str
    name: str
    draw: Callable[[], bytes]


@dataclass(frozen=True)
class Section:
    """A table with what belongs under it.

    Attributes:
        title: its heading.
        header, rows: the table, as text.
        notes: sentences under it: what stands on how many items, under which configuration.
        plots: its figures.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    plots: Sequence[Plot] = field(default_factory=tuple)


def named_results(results: Sequence[Results]) -> dict[str, Results]:
    """The results of one benchmark by what tells them apart: the mode, and the folder where that is not enough."""
    order = list(MODES)
    results = sorted(results, key=lambda one: order.index(one.mode) if one.mode in order else len(order))
    modes = [one.mode for one in results]
    named: dict[str, Results] = {}
    for one in results:
        name = one.mode if modes.count(one.mode) == 1 else f"{one.mode} ({one.folder.parent.name})"
        named[name if name not in named else f"{one.mode} ({one.folder})"] = one
    return named


def notes_on(named: Mapping[str, Results], *keys: str) -> list[str]:
    """A sentence for each: on how many items its figures by `keys` stand, and under which configuration."""
    lines = []
    for name, one in named.items():
        counts = [figure.items for figure in one.by(*keys).values()]
        fewest, most = min(counts, default=0), max(counts, default=0)
        each = f"{most}" if fewest == most else f"{fewest} to {most}"
        failed = one.overall().failed
        failures = f", {failed} of them failed" if failed else ""
        spread = f" for each of {len(counts)} rows, {len(one.rows)} in all" if len(counts) > 1 else ""
        shown = {key: value for key, value in sorted(one.config.items()) if value is not None and key not in _HIDDEN}
        settings = ", ".join(f"{key} {value}" for key, value in shown.items())
        lines.append(f"{name}: {each} items{spread}{failures}. {settings}.")
    return lines
