"""Documents: text, pages and metadata."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

from focusdoc.errors import DocumentError, EmptyDocumentError
from focusdoc.texts import check_text

#: A page of a plain text, which a form feed ends (RFCs, the output of pdftotext).
_PAGE = re.compile(r"[^\f]+\f?|\f")
_START, _END = attrgetter("start"), attrgetter("end")


@dataclass(frozen=True, slots=True)
class Page:
    """One page, a span ``[start, end)`` of a document's text.

    Attributes:
        number: from 1.
        label: the printed page number ("iv", "A-3"), or the title of the chapter, slide, sheet or section that is used
            as a page; None if there is none.
        start, end: offsets in ``Document.text``; equal for an empty page.
    """

    number: int
    label: str | None
    start: int
    end: int


@dataclass(frozen=True, repr=False)
class Document:
    """A text with the pages that tile it.

    Attributes:
        text: the whole text; all offsets in this library count its characters (Unicode code points).
        pages: numbered from 1; they tile the text.
        metadata: ``source``, ``name``, ``format``, ``num_pages``, and unless it is plain text ``unit``, ``title``,
            ``author``, ``pages_without_text`` (page numbers), ``left_out`` (sentences about content that a viewer
            shows but the text lacks) and ``warnings`` (of the parser).

    Raises:
        DocumentError: the pages do not tile the text, or it has half of a surrogate pair.
    """

    text: str
    pages: tuple[Page, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise DocumentError(f"text is of type {type(self.text).__name__}; a document needs a str.")
        object.__setattr__(self, "pages", tuple(self.pages))
        object.__setattr__(self, "metadata", dict(self.metadata))
        check_text(self.text, repr(self.name), DocumentError)
        if not self.pages:
            raise DocumentError("A document needs at least one page; use Document.from_text for a plain text.")
        end = 0
        for number, page in enumerate(self.pages, start=1):
            if page.number != number or page.start != end or page.end < page.start:
                raise DocumentError(f"{page} does not fit: page {number} must start at character {end}.")
            end = page.end
        if end != len(self.text):
            raise DocumentError(f"The pages end at character {end}, the text at {len(self.text)}; they must tile it.")

    @classmethod
    def from_text(cls, text: str, metadata: Mapping[str, Any] | None = None) -> Document:
        """A document from plain text, with one page, or several that are separated by form feeds.

        Args:
            text: the text itself, never a file name.
            metadata: ``format`` ("text" by default) and ``num_pages`` are added.

        Raises:
            EmptyDocumentError: there is nothing but white space.
            DocumentError: the text has half of a surrogate pair, which no tokenizer can encode.
        """
        metadata = dict(metadata or {})
        name = metadata.get("name", "text")
        if not text.strip():
            raise EmptyDocumentError(f"{name!r} has no text; give a document with at least one word.")
        pages = tuple(Page(number, None, *found.span()) for number, found in enumerate(_PAGE.finditer(text), start=1))
        return cls(text, pages, {"format": "text", **metadata, "num_pages": len(pages)})

    def __repr__(self) -> str:
        return f"Document({self.name!r}, {len(self.text):,} characters, {len(self.pages):,} pages)"

    @property
    def name(self) -> str:
        """The name from the metadata, else the file's name, else "text"."""
        name = self.metadata.get("name") or Path(str(self.metadata.get("source") or "")).name
        return str(name) or "text"

    @property
    def left_out(self) -> tuple[str, ...]:
        """Sentences about content that a viewer shows but the text lacks."""
        return tuple(self.metadata.get("left_out", ()))

    @property
    def has_pages(self) -> bool:
        """Whether page numbers are meaningful: not in plain text, nor in a web page without headings."""
        return len(self.pages) > 1 or self.metadata.get("unit", "section") != "section"

    @property
    def unit(self) -> str:
        """The name of a page: "page", "chapter", "slide", "sheet" or "section"."""
        return str(self.metadata.get("unit", "page"))

    def page_at(self, offset: int) -> Page:
        """The page of the character at `offset`; the last page for the end of the text.

        Raises:
            DocumentError: `offset` is outside the text.
        """
        if not 0 <= offset <= len(self.text):
            raise DocumentError(f"Offset {offset} is outside the text of {len(self.text)} characters.")
        return self.pages[bisect_right(self.pages, offset, key=_START) - 1]

    def pages_between(self, start: int, end: int) -> tuple[Page, ...]:
        """The pages that overlap ``text[start:end]``; for an empty span the page at `start`.

        Raises:
            DocumentError: the span is reversed or outside the text.
        """
        if not 0 <= start <= end <= len(self.text):
            raise DocumentError(f"Span {start}:{end} is reversed or outside the text of {len(self.text)} characters.")
        if start == end:
            return (self.page_at(start),)
        return self.pages[bisect_right(self.pages, start, key=_END) : bisect_left(self.pages, end, key=_START)]


def page_ranges(pages: Sequence[int], unit: str = "page") -> str:
    """Format sorted page numbers: "page 3", "pages 3, 7-9"."""
    ranges: list[list[int]] = []
    for page in pages:
        if ranges and page == ranges[-1][1] + 1:
            ranges[-1][1] = page
        else:
            ranges.append([page, page])
    listed = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
    return f"{unit} {listed}" if len(pages) == 1 else f"{unit}s {listed}"
