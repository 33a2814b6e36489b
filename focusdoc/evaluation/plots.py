"""The figures of a report, drawn with matplotlib (the extra ``plot``) and returned as PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from focusdoc.evaluation.needed import needed

Series = Mapping[str, Mapping[float, float]]

_SIZE, _DPI = (6.4, 3.8), 130
#: Values whose largest is so many times the smallest get a logarithmic axis.
_LOG_FROM = 8
#: More lines than these leave no room for a legend inside the axes.
_LINES_BESIDE_A_LEGEND = 5


def lines(series: Series, *, title: str, x: str, y: str, log_y: bool = False, top: float | None = None) -> bytes:
    """Lines over a logarithmic axis of token counts.

    Args:
        series: for every line, its values by token count.
        log_y: a logarithmic y axis too, where the values differ enough for one.
        top: the end of the y axis, which then begins at 0.
    """
    crowded = len(series) > _LINES_BESIDE_A_LEGEND
    figure, axes = _figure((_SIZE[0] + 2.2, _SIZE[1]) if crowded else _SIZE)
    for index, (name, points) in enumerate(series.items()):
        places = sorted(points)
        # Lines that lie on one another stay visible by their marks.
        mark = "osD^vP*"[index % 7]
        axes.plot(places, [points[place] for place in places], marker=mark, markersize=5, label=name, alpha=0.85)
    ticks = sorted({place for points in series.values() for place in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [short(tick) for tick in ticks])
    axes.minorticks_off()
    values = [value for points in series.values() for value in points.values()]
    if log_y and values and max(values) > _LOG_FROM * min(values) > 0:
        ticker = needed("matplotlib.ticker", "plot")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
    if top is not None:
        axes.set_ylim(-0.03 * top, 1.05 * top)
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    if crowded:
        figure.legend(loc="outside right upper", fontsize=8)
    elif len(series) > 1:
        axes.legend(fontsize=8)
    return _png(figure)


def heat_map(
    cells: Sequence[Sequence[float | None]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    x: str,
    y: str,
    top: float | None = 100.0,
    numbers: bool = True,
) -> bytes:
    """A grid of values; cells without one stay white.

    Args:
        top: the value of the strongest colour; None for the largest cell.
        numbers: write each value into its cell.
    """
    numpy = needed("numpy", "plot")
    grid = numpy.array([[numpy.nan if cell is None else cell for cell in row] for row in cells], dtype=float)
    width = max(_SIZE[0], min(16.0, 0.55 * len(columns) + 2))
    figure, axes = _figure((width, max(_SIZE[1], min(14.0, 0.32 * len(rows) + 1.6))))
    green = top == 100.0
    image = axes.imshow(grid, cmap="RdYlGn" if green else "viridis", vmin=0, vmax=top, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=0 if len(columns) <= 12 else 90, fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.set(title=title, xlabel=x, ylabel=y)
    if numbers:
        for row, values in enumerate(cells):
            for column, value in enumerate(values):
                if value is not None:
                    axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8)
    figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    return _png(figure)


@dataclass(frozen=True)
class Panel:
    """One of several heat maps with the same rows: its title, cells [rows, columns] and labels."""

    title: str
    cells: Sequence[Sequence[float]]
    rows: Sequence[str]
    columns: Sequence[str]
    x: str


def heat_maps(panels: Sequence[Panel]) -> bytes:
    """Heat maps below one another, each with a colour scale of its own."""
    tall = max(1.6, 0.24 * len(panels[0].rows) + 1.3)
    wide = min(14.0, max(7.0, 0.24 * max(len(panel.columns) for panel in panels) + 2.0))
    figure = needed("matplotlib.figure", "plot").Figure(
        figsize=(wide, tall * len(panels)), dpi=_DPI, layout="constrained"
    )
    for axes, panel in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        image = axes.imshow(panel.cells, cmap="magma", vmin=0, aspect="auto", interpolation="nearest")
        axes.set_xticks(range(len(panel.columns)), panel.columns, rotation=90, fontsize=6)
        axes.set_yticks(range(len(panel.rows)), panel.rows, fontsize=7)
        axes.set_title(panel.title, fontsize=9)
        axes.set_xlabel(panel.x, fontsize=8)
        figure.colorbar(image, ax=axes, fraction=0.02, pad=0.01)
    return _png(figure)


def short(tokens: float) -> str:
    """A token count as people say it: 4K, 128K."""
    return f"{tokens / 1024:g}K" if tokens >= 1024 and tokens % 1024 == 0 else f"{tokens:,.0f}"


def _figure(size: tuple[float, float] = _SIZE) -> tuple[Any, Any]:
    # Figure and canvas of their own: no state in pyplot, and no window system.
    figure = needed("matplotlib.figure", "plot").Figure(figsize=size, dpi=_DPI, layout="constrained")
    return figure, figure.subplots()


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
