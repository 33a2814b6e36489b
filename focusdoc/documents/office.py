"""Office files: Word documents, PowerPoint slides, Excel sheets, and the same in OpenDocument."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from datetime import datetime, time
from itertools import zip_longest
from typing import Any

from focusdoc.documents.archive import Archive
from focusdoc.documents.markup import BAR, Rules, attribute, count, local, names, sections, to_text
from focusdoc.documents.parsed import Parsed, Refused
from focusdoc.documents.web import HTML, parse_html

#: Literal text in a number format.
_LITERAL = re.compile(r'"[^"]*"|\\.')
_DRAWING = Rules(
    lines=names("p"),
    rows=names("tr"),
    cells=names("tc"),
    skipped=names("Fallback"),  # an alternative of the element next to it
    breaks={"br": "\n", "tab": "\t"},
    texts=names("t"),
)
_OPEN_DOCUMENT = Rules(
    paragraphs=names("h list p table"),
    lines=names("frame list-header list-item notes"),
    rows=names("table-row"),
    cells=names("table-cell"),
    notes=names("note annotation"),
    skipped=names("covered-table-cell tracked-changes title desc forms object"),
    breaks={"line-break": "\n", "tab": "\t", "s": " "},
    level=lambda element: count(attribute(element, "outline-level")) if local(element) == "h" else 0,
    marker=lambda element: "- " if local(element) == "list-item" else "",
)
#: Format, unit, and the element of a unit.
_OPEN_PARTS = {
    "text": ("odt", "section", ""),
    "presentation": ("odp", "slide", "page"),
    "spreadsheet": ("ods", "sheet", "table"),
}
#: Placeholders that are not content: date, header, footer, slide number, and the slide's picture in its notes.
_FURNITURE = {"dt", "ftr", "hdr", "sldImg", "sldNum"}
#: Content of a Word file that mammoth silently skips.
_NOT_READ = {b"<m:oMath": "equations", b"drawingml/2006/chart": "charts", b"drawingml/2006/diagram": "diagrams"}


def _part(archive: Archive, kind: str) -> str:
    """The name of a main part of the file, by its relationship type."""
    return next((part for found, part in archive.related("").values() if found == kind), "")


def read_docx(archive: Archive, data: bytes) -> Parsed:
    """A Word file in sections, with tables, notes and accepted changes."""
    import mammoth

    no_image = mammoth.images.img_element(lambda image: {})
    page = mammoth.convert_to_html(io.BytesIO(data), convert_image=no_image).value
    pages, labels = sections(*to_text(parse_html(page), HTML))
    text = archive.find(_part(archive, "officeDocument"))
    left_out = [f"its {what} were not read" for mark, what in _NOT_READ.items() if mark in text]
    parsed = Parsed(format="docx", pages=pages, labels=labels, unit="section", left_out=left_out)
    return archive.named(parsed, _part(archive, "core-properties"))


def read_pptx(archive: Archive) -> Parsed:
    """The slides of a presentation in order, with tables, charts, diagrams and speaker notes."""
    main = _part(archive, "officeDocument")
    parts = archive.related(main)
    pages: list[str] = []
    labels: list[str | None] = []
    for entry in archive.xml(main).iterfind(".//{*}sldIdLst/{*}sldId"):
        key = next(value for name, value in entry.items() if name.endswith("}id"))
        slide = parts[key][1]
        root = _own_shapes(archive.xml(slide))
        texts = [to_text(root, _DRAWING)[0], *_related_texts(archive, slide)]
        pages.append("\n\n".join(filter(None, texts)))
        labels.append(_title(root))
    parsed = Parsed(format="pptx", pages=pages, labels=labels, unit="slide")
    return archive.named(parsed, _part(archive, "core-properties"))


def _own_shapes(root: Any) -> Any:
    """Remove placeholders that are not content."""
    for placeholder in list(root.iter("{*}ph")):
        shape = next(placeholder.iterancestors("{*}sp"), None)
        if attribute(placeholder, "type") in _FURNITURE and shape is not None:
            shape.getparent().remove(shape)
    return root


def _title(root: Any) -> str | None:
    for placeholder in root.iter("{*}ph"):
        if attribute(placeholder, "type") in ("title", "ctrTitle"):
            shape = next(placeholder.iterancestors("{*}sp"), None)
            return " ".join(to_text(shape, _DRAWING)[0].split()) or None
    return None


def _related_texts(archive: Archive, slide: str) -> Iterator[str]:
    """The texts of a slide's notes, diagrams and charts, which are separate parts."""
    for kind, part in archive.related(slide).values():
        if kind == "notesSlide":
            if notes := to_text(_own_shapes(archive.xml(part)), _DRAWING)[0]:
                yield f"Notes: {notes}"
        elif kind == "diagramData":
            yield to_text(archive.xml(part), _DRAWING)[0]
        elif kind == "chart":
            yield "\n".join(_chart(archive.xml(part)))


def _chart(root: Any) -> Iterator[str]:
    """A chart's title and axes, then a line for each series with its categories and values."""
    yield from filter(None, [to_text(root, _DRAWING)[0]])
    for series in root.iter("{*}ser"):
        name, categories, values = (
            [point.text or "" for point in series.iterfind(f"{{*}}{tag}//{{*}}v")] for tag in ("tx", "cat", "val")
        )
        pairs = (f"{category} {value}".strip() for category, value in zip_longest(categories, values, fillvalue=""))
        yield f"{' '.join(name)}: {', '.join(pairs)}"


def read_xlsx(archive: Archive, data: bytes) -> Parsed:
    """The sheets of a workbook, row by row; a formula without a cached value is written as the formula."""
    from openpyxl import load_workbook

    books = [
        load_workbook(io.BytesIO(data), read_only=True, data_only=values, keep_links=False) for values in (True, False)
    ]
    pages: list[str] = []
    for sheet, formulas in zip(*(book.worksheets for book in books), strict=True):
        for one in (sheet, formulas):
            one.reset_dimensions()  # some programs write wrong ones, which are too small
        rows = zip(sheet.iter_rows(), formulas.iter_rows(), strict=True)
        lines = (BAR.join(map(_cell, row, other)).rstrip(BAR) for row, other in rows)
        pages.append("\n".join(line for line in lines if line))
    labels: list[str | None] = [sheet.title for sheet in books[0].worksheets]
    parsed = Parsed(format="xlsx", pages=pages, labels=labels, unit="sheet")
    return archive.named(parsed, _part(archive, "core-properties"))


def _cell(cell: Any, formula: Any) -> str:
    value = formula.value if cell.value is None else cell.value
    is_percent = "%" in _LITERAL.sub("", cell.number_format or "")
    if isinstance(value, int | float) and not isinstance(value, bool) and is_percent:
        return f"{100 * value:.12g}%"
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, datetime) and value.time() == time():
        value = value.date()
    return " ".join(str("" if value is None else getattr(value, "text", value)).split())


def read_open_document(archive: Archive) -> Parsed:
    """A text in sections, a presentation slide by slide, or a spreadsheet sheet by sheet.

    Raises:
        Refused: it is encrypted, or none of the three.
    """
    if b"encryption-data" in archive.find("META-INF/manifest.xml"):
        raise Refused("protected", "protected by a password")
    kind = next(iter(archive.xml("content.xml").find("{*}body")), None)
    if kind is None or local(kind) not in _OPEN_PARTS:
        raise Refused("damaged", "OpenDocument, but not a text, presentation or spreadsheet")
    extension, unit, name = _OPEN_PARTS[local(kind)]
    parts = list(kind.iterfind(f"{{*}}{name}")) if name else []
    pages, labels = [to_text(part, _OPEN_DOCUMENT)[0] for part in parts], list(map(_open_title, parts))
    if not name:
        pages, labels = sections(*to_text(kind, _OPEN_DOCUMENT))
    return archive.named(Parsed(format=extension, pages=pages, labels=labels, unit=unit), "meta.xml")


def _open_title(part: Any) -> str | None:
    """A slide's title, else the name of the slide or sheet."""
    for frame in part.iterfind("{*}frame"):
        if attribute(frame, "class") == "title" and (words := " ".join(to_text(frame, _OPEN_DOCUMENT)[0].split())):
            return words
    return attribute(part, "name") or None
