"""The text of a PDF, page by page; run in the child process."""

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

_MOST_WARNINGS = 20
_LONGEST_WARNING = 200
_LONGEST_LABEL = 64
_LONGEST_FIELD = 1000


class _Warnings(logging.Handler):
    """Keeps the parser's first different warnings instead of printing them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._seen: set[str] = set()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # The message before its values are filled in: one warning for each kind, not for each font.
        if str(record.msg) not in self._seen and len(self._seen) < _MOST_WARNINGS:
            self._seen.add(str(record.msg))
            self.messages.append(record.getMessage()[:_LONGEST_WARNING])


def read(data: bytes, request: Request) -> Parsed:
    """The pages of a PDF, column by column where a page has columns.

    Raises:
        Refused: it is encrypted, has missing pages, or more of them, or of characters, than allowed.
    """
    heard = _Warnings()
    logger = logging.getLogger("pypdf")
    logger.handlers, logger.propagate = [heard], False

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
        warnings=heard.messages,
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
    # pypdf leaves out pages whose objects are missing; the page tree still says how many there were.
    tree = reader.root_object["/Pages"].get_object()
    declared = tree.get("/Count", num_pages) if isinstance(tree, dict) else num_pages
    if isinstance(declared, int) and num_pages < declared:
        raise Refused("damaged", f"only {num_pages} of its {declared} pages can be found")


def valid_text(text: str) -> str:
    """The text with halves of surrogate pairs, which broken font tables yield, joined or replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _labels(reader: PdfReader, num_pages: int) -> list[str | None]:
    """The printed page numbers, if the PDF has them and they are sound."""
    try:
        if "/PageLabels" not in reader.root_object:
            return []
        labels = [valid_text(label) for label in reader.page_labels]
    except Exception:
        return []
    usable = len(labels) == num_pages and all(len(label) <= _LONGEST_LABEL for label in labels)
    return list(labels) if usable else []


def _field(reader: PdfReader, name: str) -> str | None:
    """Title or author, if there is one; damage here is no reason to refuse the text."""
    try:
        value = getattr(reader.metadata, name, None)
        return valid_text(str(value)).strip()[:_LONGEST_FIELD] or None if value is not None else None
    except Exception:
        return None
