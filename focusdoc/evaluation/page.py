"""Report sections as Markdown with PNG files and as one self-contained HTML page, with figures drawn by matplotlib."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from focusdoc.evaluation.loading import needed
from focusdoc.storage import atomic_write

if TYPE_CHECKING:
    import pandas as pd

#: The text of a cell without a value.
EMPTY = "-"
_BASE_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#222;"
    "background:#fff}img{max-width:100%;height:auto}figure{margin:1rem 0}figcaption,.note{color:#666;font-size:.85rem}"
)
_STYLE = (
    "body{max-width:60rem}table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}"
    "th,td{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}"
    "th:first-child,td:first-child{text-align:left}th{border-bottom:2px solid #888}"
    ".note{overflow-wrap:anywhere;margin:.3rem 0}"
)
_SIZE, _DPI = (6.4, 3.8), 130


@dataclass(frozen=True)
class Plot:
    """A figure: its caption, its file name, and a function that draws it as PNG."""

    caption: str
    name: str
    draw: Callable[[], bytes]


@dataclass(frozen=True)
class Section:
    """A table with a title, notes and figures."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    plots: Sequence[Plot] = ()


def written(form: str, empty: str = EMPTY) -> Callable[[float], str]:
    """A formatter for numbers that returns `empty` for NaN."""
    return lambda value: form.format(value) if value == value else empty


def write_sections(parts: Sequence[Section], output: Path, name: str, title: str) -> list[Path]:
    """Write sections as ``NAME.md`` and ``NAME.html`` with their figures; returns the paths."""
    pictures = {plot.name: plot.draw() for part in parts for plot in part.plots}
    contents = {f"{picture}.png": data for picture, data in pictures.items()}
    contents[f"{name}.md"] = _markdown(parts, title).encode()
    contents[f"{name}.html"] = _page(parts, pictures, title).encode()
    for file, data in contents.items():
        atomic_write(output / file, data)
    return [output / file for file in contents]


def _markdown(parts: Sequence[Section], title: str) -> str:
    text = [f"# {title}", ""]
    for part in parts:
        header, *rows = ("| " + " | ".join(map(_escaped, row)) + " |" for row in (part.header, *part.rows))
        text += [f"## {_escaped(part.title)}", "", header, "|---|" + "---:|" * (len(part.header) - 1), *rows, ""]
        text += [*(f"- {_escaped(note)}" for note in part.notes), ""]
        for plot in part.plots:
            text += [f"![{_escaped(plot.caption)}]({plot.name}.png)", ""]
    return "\n".join(text)


def _page(parts: Sequence[Section], pictures: Mapping[str, bytes], title: str) -> str:
    """Sections as one HTML page that loads nothing; all results are escaped."""
    body = [f"<h1>{title}</h1>"]
    for part in parts:
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in part.header)
        body.append(f"<h2>{html.escape(part.title)}</h2><table><thead><tr>{head}</tr></thead><tbody>")
        for row in part.rows:
            body.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>")
        body.append("</tbody></table>")
        body += [f'<p class="note">{html.escape(note)}</p>' for note in part.notes]
        body += [picture(pictures[plot.name], plot.caption) for plot in part.plots]
    return document(title, "\n".join(body), _STYLE)


def picture(data: bytes, caption: str) -> str:
    """A PNG as an HTML figure with the image inline."""
    encoded, shown = base64.b64encode(data).decode(), html.escape(caption)
    return f'<figure><img alt="{shown}" src="data:image/png;base64,{encoded}"><figcaption>{shown}</figcaption></figure>'


def document(title: str, body: str, style: str) -> str:
    """A whole HTML page; its content security policy forbids it to load or run anything."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{html.escape(title)}</title><style>{_BASE_STYLE}{style}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", " ".join(text.split()))


def lines(table: pd.DataFrame, *, title: str, x: str, y: str, log_y: bool = False, top: float | None = None) -> bytes:
    """A line for every column of `table` over its index of token counts, on a logarithmic axis.

    With `log_y` the y axis is logarithmic too, if the values differ enough; with `top` it goes from 0 to there.
    """
    table = table.dropna(how="all").sort_index()
    crowded = table.shape[1] > 5  # then the legend is beside the axes
    figure, ((axes,),) = _figure((_SIZE[0] + 2.2, _SIZE[1]) if crowded else _SIZE)
    for number, (name, column) in enumerate(table.items()):
        points = column.dropna()
        # Markers keep overlapping lines visible.
        axes.plot(points.index, points, marker="osD^vP*"[number % 7], markersize=5, label=name, alpha=0.85)
    axes.set_xscale("log", base=2)
    axes.set_xticks(table.index, map(short, table.index))
    axes.minorticks_off()
    if log_y and table.max(axis=None) > 8 * table.min(axis=None) > 0:
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
        for (row, column), value in np.ndenumerate(grid.to_numpy(float)) if percent else ():
            if not np.isnan(value):
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
