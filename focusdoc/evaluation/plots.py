"""The figures of a report as PNG, drawn with matplotlib (the extra ``plot``)."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from focusdoc.evaluation.needed import needed

if TYPE_CHECKING:
    import pandas as pd

_SIZE, _DPI = (6.4, 3.8), 130
#: Ratio of the largest to the smallest value above which an axis is logarithmic.
_LOG_RATIO = 8
#: Most lines for which the legend is inside the axes.
_MAX_LINES_WITH_LEGEND = 5


def lines(table: pd.DataFrame, *, title: str, x: str, y: str, log_y: bool = False, top: float | None = None) -> bytes:
    """A line for every column of `table` over its index of token counts, on a logarithmic axis.

    With `log_y` the y axis is logarithmic too, if the values differ enough; with `top` it goes from 0 to there.
    """
    table = table.dropna(how="all").sort_index()
    crowded = table.shape[1] > _MAX_LINES_WITH_LEGEND
    figure, ((axes,),) = _figure((_SIZE[0] + 2.2, _SIZE[1]) if crowded else _SIZE)
    for number, (name, column) in enumerate(table.items()):
        points = column.dropna()
        # Markers keep overlapping lines visible.
        axes.plot(points.index, points, marker="osD^vP*"[number % 7], markersize=5, label=name, alpha=0.85)
    axes.set_xscale("log", base=2)
    axes.set_xticks(table.index, map(short, table.index))
    axes.minorticks_off()
    if log_y and table.max(axis=None) > _LOG_RATIO * table.min(axis=None) > 0:
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
    elif table.shape[1] > 1:
        axes.legend(fontsize=8)
    return _png(figure)


def heat_maps(panels: Mapping[str, pd.DataFrame], *, percent: bool = False) -> bytes:
    """Stacked heat maps by title; index and columns are the tick labels, and their names the axis labels.

    With `percent`, values are from 0 to 100 and written into the cells, which stay white for NaN; else each grid has
    its own scale.
    """
    cell, least = (0.5, _SIZE[1]) if percent else (0.24, 1.6)
    rows, columns = (max(grid.shape[side] for grid in panels.values()) for side in (0, 1))
    tall = max(least, min(14.0, cell * rows + 1.3))
    figure, every = _figure((max(_SIZE[0], min(14.0, cell * columns + 2)), tall * len(panels)), len(panels))
    look = {"cmap": "RdYlGn", "vmax": 100} if percent else {"cmap": "magma"}
    for axes, (title, grid) in zip(every[:, 0], panels.items(), strict=True):
        image = axes.imshow(grid.to_numpy(float), vmin=0, aspect="auto", interpolation="nearest", **look)
        axes.set_xticks(range(grid.shape[1]), grid.columns, rotation=90 if grid.shape[1] > 12 else 0, fontsize=7)
        axes.set_yticks(range(len(grid)), grid.index, fontsize=7)
        axes.set_title(title, fontsize=9)
        axes.set(xlabel=grid.columns.name, ylabel=grid.index.name)
        cells = enumerate(grid.to_numpy()) if percent else ()
        for row, column, value in ((row, column, value) for row, line in cells for column, value in enumerate(line)):
            if not math.isnan(value):
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8)
        figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02)
    return _png(figure)


def short(tokens: float) -> str:
    """A token count such as 4K or 128K."""
    return f"{tokens / 1024:g}K" if tokens >= 1024 and tokens % 1024 == 0 else f"{tokens:,.0f}"


def _figure(size: tuple[float, float], panels: int = 1) -> tuple[Any, Any]:
    # Not pyplot, which has global state and may need a display.
    figure = needed("matplotlib.figure", "plot").Figure(figsize=size, dpi=_DPI, layout="constrained")
    return figure, figure.subplots(panels, squeeze=False)


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
