"""The text of a PDF, page by page. Runs in the child process."""

from __future__ import annotations

import io
import logging
from typing import Any

from pypdf import PdfReader

from focusdoc.documents.joining import join_words
from focusdoc.documents.parsed import Parsed, Refused, Request
from focusdoc.documents.pdf_columns import page_text
from focusdoc.documents.pdf_lacks import is_unmapped, left_out
from focusdoc.documents.pdf_marks import marks_of

_MAX_WARNINGS = 20
_MAX_WARNING = 200
_MAX_LABEL = 64
_MAX_FIELD = 1000


class _Warnings(logging.Handler):
    """Collects the parser's first distinct warnings instead of printing them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._seen: set[str] = set()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # By the unformatted message: one warning per kind, not one per font.
        if str(record.msg) not in self._seen and len(self._seen) < _MAX_WARNINGS:
            self._seen.add(str(record.msg))
            self.messages.append(record.getMessage()[:_MAX_WARNING])


def read(data: bytes, request: Request) -> Parsed:
    """The pages of a PDF in reading order, column by column.

    Raises:
        Refused: it is encrypted, has missing pages, or exceeds the limits of pages or characters.
    """
    collected = _Warnings()
    logger = logging.getLogger("pypdf")
    logger.handlers, logger.propagate = [collected], False

    reader = PdfReader(io.BytesIO(data))
    if reader.is_encrypted:
        _decrypt(reader, request["password"])
    num_pages = len(reader.pages)
    _check_pages(reader, num_pages, request["max_pages"])
    texts: list[str] = []
    unmapped: list[int] = []
    characters = 0
    for number, page in enumerate(reader.pages, start=1):
        try:
            pieces: list[tuple[Any, ...]] = []
            texts.append(valid_text(page_text(page, marks_of(page), pieces)))
            if is_unmapped(texts[-1], pieces):
                unmapped.append(number)
        except (MemoryError, RecursionError):
            raise
        except Exception as error:
            error.args = (f"page {number}: {error}",)
            raise
        characters += len(texts[-1])
        if characters > request["max_characters"]:
            raise Refused("characters", f"{number} of {num_pages} pages have {characters:,} characters already")
    return Parsed(
        format="pdf",
        pages=join_words(texts),
        labels=_labels(reader, num_pages),
        title=_field(reader, "title"),
        author=_field(reader, "author"),
        left_out=left_out(reader, unmapped),
        warnings=collected.messages,
    )


def _decrypt(reader: PdfReader, password: str | None) -> None:
    # Many PDFs are encrypted against editing only and open with the empty password.
    if password is not None and reader.decrypt(password):
        return
    if not reader.decrypt(""):
        raise Refused("encrypted" if password is None else "password")


def _check_pages(reader: PdfReader, num_pages: int, max_pages: int) -> None:
    if num_pages > max_pages:
        raise Refused("pages", f"{num_pages:,} pages")
    # pypdf skips pages whose objects are missing, but the page tree still has their number.
    tree = reader.root_object["/Pages"].get_object()
    declared = tree.get("/Count", num_pages) if isinstance(tree, dict) else num_pages
    if isinstance(declared, int) and num_pages < declared:
        raise Refused("damaged", f"only {num_pages} of its {declared} pages can be found")


def valid_text(text: str) -> str:
    """The text with surrogates, which broken font tables yield, joined to pairs or replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _labels(reader: PdfReader, num_pages: int) -> list[str | None]:
    """The printed page numbers; empty if the PDF has none, or invalid ones."""
    try:
        if "/PageLabels" not in reader.root_object:
            return []
        labels = [valid_text(label) for label in reader.page_labels]
    except Exception:
        return []
    usable = len(labels) == num_pages and all(len(label) <= _MAX_LABEL for label in labels)
    return list(labels) if usable else []


def _field(reader: PdfReader, name: str) -> str | None:
    """Title or author, or None; errors in the metadata are ignored."""
    try:
        value = getattr(reader.metadata, name, None)
        return valid_text(str(value)).strip()[:_MAX_FIELD] or None if value is not None else None
    except Exception:
        return None
