"""Writing report sections as Markdown with PNG files, and as one self-contained HTML page."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from focusdoc.storage import atomic_write

#: The text of a cell without a value.
EMPTY = "-"
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;"
    "background:#fff}table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}"
    "th,td{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}"
    "th:first-child,td:first-child{text-align:left}th{border-bottom:2px solid #888}"
    "img{max-width:100%;height:auto}figure{margin:1rem 0}figcaption,.note{color:#666;font-size:.85rem}"
    ".note{overflow-wrap:anywhere;margin:.3rem 0}"
)
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|])")


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
    lines = [f"# {title}", ""]
    for part in parts:
        lines += [f"## {_escaped(part.title)}", ""]
        lines.append("| " + " | ".join(map(_escaped, part.header)) + " |")
        lines.append("|---|" + "---:|" * (len(part.header) - 1))
        lines += ["| " + " | ".join(map(_escaped, row)) + " |" for row in part.rows]
        lines += ["", *(f"- {_escaped(note)}" for note in part.notes), ""]
        for plot in part.plots:
            lines += [f"![{_escaped(plot.caption)}]({plot.name}.png)", ""]
    return "\n".join(lines)


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
    encoded = base64.b64encode(data).decode()
    shown = html.escape(caption, quote=True)
    return f'<figure><img alt="{shown}" src="data:image/png;base64,{encoded}"><figcaption>{shown}</figcaption></figure>'


def document(title: str, body: str, style: str) -> str:
    """A whole HTML page; its content security policy forbids it to load or run anything."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{html.escape(title)}</title><style>{style}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _escaped(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
