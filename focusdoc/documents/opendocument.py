"""OpenDocument: texts, slides and sheets of LibreOffice and others."""

from __future__ import annotations

from typing import Any

from focusdoc.documents.archive import Archive
from focusdoc.documents.markup import Rules, attribute, count, local, names, sections, to_text
from focusdoc.documents.parsed import Parsed, Refused

_RULES = Rules(
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
_PARTS = {
    "text": ("odt", "section", ""),
    "presentation": ("odp", "slide", "page"),
    "spreadsheet": ("ods", "sheet", "table"),
}


def read_open_document(archive: Archive) -> Parsed:
    """A text in sections, a presentation slide by slide, or a spreadsheet sheet by sheet.

    Raises:
        Refused: it is encrypted, or none of the three.
    """
    if b"encryption-data" in archive.find("META-INF/manifest.xml"):
        raise Refused("protected", "protected by a password")
    kind = next(iter(archive.xml("content.xml").find("{*}body")), None)
    if kind is None or local(kind) not in _PARTS:
        raise Refused("damaged", "OpenDocument, but not a text, presentation or spreadsheet")
    extension, unit, name = _PARTS[local(kind)]
    parts = list(kind.iterfind(f"{{*}}{name}")) if name else []
    pages, labels = [to_text(part, _RULES)[0] for part in parts], list(map(_title, parts))
    if not name:
        pages, labels = sections(*to_text(kind, _RULES))
    return archive.named(Parsed(format=extension, pages=pages, labels=labels, unit=unit), "meta.xml")


def _title(part: Any) -> str | None:
    """A slide's title, else the name of the slide or sheet."""
    for frame in part.iterfind("{*}frame"):
        if attribute(frame, "class") == "title" and (words := " ".join(to_text(frame, _RULES)[0].split())):
            return words
    return attribute(part, "name") or None
