"""The figures of a report, drawn with matplotlib (the extra ``plot``) and returned as PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from focusdoc.evaluation.needed import needed

if TYPE_CHECKING:
    import pandas as pd

_SIZE, _DPI = (6.4, 3.8), 130
#: Values whose largest is so many times the smallest get a logarithmic axis.
_LOG_FROM = 8
#: More lines than these leave no room for a legend inside the axes.
_LINES_BESIDE_A_LEGEND = 5


def lines(table: pd.DataFrame, *, title: str, x: str, y: str, log_y: bool = False, top: float | None = None) -> bytes:
    """A line for every column of `table` over its index of token counts, on a logarithmic axis.

    Args:
        log_y: a logarithmic y axis too, where the values differ enough for one.
        top: the end of the y axis, which then begins at 0.
    """
    table = table.dropna(how="all").sort_index()
    crowded = table.shape[1] > _LINES_BESIDE_A_LEGEND
    figure, ((axes,),) = _figure((_SIZE[0] + 2.2, _SIZE[1]) if crowded else _SIZE)
    for number, (name, column) in enumerate(table.items()):
        points = column.dropna()
        # Lines that lie on one another stay visible by their marks.
        axes.plot(points.index, points, marker="osD^vP*"[number % 7], markersize=5, label=name, alpha=0.85)
    axes.set_xscale("log", base=2)
    axes.set_xticks(table.index, map(short, table.index))
    axes.minorticks_off()
    if log_y and table.max(axis=None) > _LOG_FROM * table.min(axis=None) > 0:
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
    """Grids below one another, by their titles; a grid's index and columns are its labels, and their names the axes'.

    Args:
        percent: of 0 to 100, each written into its cell, one without stays white; else every grid has its own scale.
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
    """A token count as people say it: 4K, 128K."""
    return f"{tokens / 1024:g}K" if tokens >= 1024 and tokens % 1024 == 0 else f"{tokens:,.0f}"


def _figure(size: tuple[float, float], panels: int = 1) -> tuple[Any, Any]:
    # Figure and canvas of their own: no state in pyplot, and no window system.
    figure = needed("matplotlib.figure", "plot").Figure(figsize=size, dpi=_DPI, layout="constrained")
    return figure, figure.subplots(panels, squeeze=False)


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
