"""A report over result folders, as Markdown with its figures beside it and as one self-contained HTML page."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path

from focusdoc.evaluation.reference import Reference
from focusdoc.evaluation.results import find_folders
from focusdoc.evaluation.section import Section
from focusdoc.evaluation.sections import sections
from focusdoc.evaluation.summary import Results
from focusdoc.storage import atomic_write

TITLE = "focusdoc evaluation"
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;"
    "background:#fff}table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}"
    "th,td{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}"
    "th:first-child,td:first-child{text-align:left}th{border-bottom:2px solid #888}"
    "img{max-width:100%;height:auto}figure{margin:1rem 0}figcaption,.note{color:#666;font-size:.85rem}"
    ".note{overflow-wrap:anywhere;margin:.3rem 0}"
)
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|])")


def write_report(paths: Sequence[Path], output: Path, reference: Reference) -> list[Path]:
    """Write ``report.md``, ``report.html`` and the figures; returns what was written.

    Args:
        paths: result folders, or folders above them.

    Raises:
        EvaluationError: a path has no results, they are damaged, or a package of an extra is missing.
    """
    found = [Results.open(folder) for folder in find_folders(paths)]
    parts = list(sections(found, reference))
    pictures = {plot.name: plot.draw() for part in parts for plot in part.plots}
    files = {f"{name}.png": data for name, data in pictures.items()}
    files["report.md"] = markdown(parts).encode()
    files["report.html"] = page(parts, pictures).encode()
    for name, data in files.items():
        atomic_write(output / name, data)
    return [output / name for name in files]


def markdown(parts: Sequence[Section]) -> str:
    """The report as Markdown; the figures are files beside it."""
    lines = [f"# {TITLE}", ""]
    for part in parts:
        lines += [f"## {_escaped(part.title)}", ""]
        lines.append("| " + " | ".join(map(_escaped, part.header)) + " |")
        lines.append("|---|" + "---:|" * (len(part.header) - 1))
        lines += ["| " + " | ".join(map(_escaped, row)) + " |" for row in part.rows]
        lines += ["", *(f"- {_escaped(note)}" for note in part.notes), ""]
        for plot in part.plots:
            lines += [f"![{_escaped(plot.caption)}]({plot.name}.png)", ""]
    return "\n".join(lines)


def page(parts: Sequence[Section], pictures: dict[str, bytes]) -> str:
    """The report as one HTML page that loads nothing; whatever comes from results is escaped."""
    body = [f"<h1>{TITLE}</h1>"]
    for part in parts:
        body.append(f"<h2>{html.escape(part.title)}</h2><table><thead><tr>")
        body += [f"<th>{html.escape(cell)}</th>" for cell in part.header]
        body.append("</tr></thead><tbody>")
        for row in part.rows:
            body.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>")
        body.append("</tbody></table>")
        body += [f'<p class="note">{html.escape(note)}</p>' for note in part.notes]
        for plot in part.plots:
            body.append(picture(pictures[plot.name], plot.caption))
    return document(TITLE, "\n".join(body), _STYLE)


def picture(data: bytes, caption: str) -> str:
    """A PNG as an HTML figure that holds it."""
    encoded = base64.b64encode(data).decode()
    shown = html.escape(caption, quote=True)
    return f'<figure><img alt="{shown}" src="data:image/png;base64,{encoded}"><figcaption>{shown}</figcaption></figure>'


def document(title: str, body: str, style: str) -> str:
    """A whole HTML page; its policy lets it load and run nothing."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{html.escape(title)}</title><style>{style}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _escaped(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
