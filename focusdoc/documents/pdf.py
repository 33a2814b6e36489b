"""The text of a PDF, page by page, and what viewers show but the text lacks. Runs in the child process."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any

from pypdf import PdfReader

from focusdoc.documents.document import page_ranges
from focusdoc.documents.joining import join_words, without_page_numbers
from focusdoc.documents.parsed import Parsed, Refused, Request
from focusdoc.documents.pdf_columns import page_text
from focusdoc.documents.pdf_marks import entry, marks_of, objects

_MAX_WARNINGS = 20
_MAX_WARNING = 200
_MAX_LABEL = 64
#: Replacements of characters without Unicode: U+FFFD, private use, control characters, glyph numbers.
_UNMAPPED = re.compile(r"[\ufffd\ue000-\uf8ff\U000f0000-\U0010ffff\x00-\x08\x0e-\x1f]|\(cid:\d+\)")
#: A page is unmapped above this share of its characters; a few may be bullets and the like.
_MAX_UNMAPPED = 0.05
_MAX_NAMES, _MAX_NAME = 10, 100


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
        _decrypt(reader, request.password)
    num_pages = len(reader.pages)
    _check_pages(reader, num_pages, request.limits.max_pages)
    texts: list[str] = []
    unmapped: list[int] = []
    characters = 0
    for number, page in enumerate(reader.pages, start=1):
        try:
            pieces: list[tuple[Any, ...]] = []
            texts.append(valid_text(page_text(page, marks_of(page), pieces)))
            if _is_unmapped(texts[-1], pieces):
                unmapped.append(number)
        except (MemoryError, RecursionError):
            raise
        except Exception as error:
            error.args = (f"page {number}: {error}",)
            raise
        characters += len(texts[-1])
        if characters > request.limits.max_characters:
            raise Refused("characters", f"{number} of {num_pages} pages have {characters:,} characters already")
    return Parsed(
        format="pdf",
        pages=join_words(without_page_numbers(texts)),
        labels=_labels(reader, num_pages),
        title=_field(reader, "title"),
        author=_field(reader, "author"),
        left_out=_left_out(reader, unmapped),
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
        return valid_text(str(value)).strip() or None if value is not None else None
    except Exception:
        return None


def _is_unmapped(text: str, pieces: Iterable[tuple[Any, ...]]) -> bool:
    """Whether many of a page's characters could not be mapped to Unicode; `pieces` are those of `page_text`."""
    known: dict[int, bool] = {}
    lost = 0
    for piece in pieces:
        font = piece[3]
        if known.setdefault(id(font), _has_no_unicode(font)):
            lost += len("".join(piece[0].split()))
    lost += len(_UNMAPPED.findall(text)) if not lost else 0
    return lost > _MAX_UNMAPPED * len("".join(text.split()))


def _has_no_unicode(font: Any) -> bool:
    """Whether a font has glyph numbers without a mapping to characters."""
    with contextlib.suppress(Exception):
        if font["/Subtype"] == "/Type0" and "/ToUnicode" not in font:
            return str(font["/Encoding"]) in ("/Identity-H", "/Identity-V")
    return False


def _left_out(reader: PdfReader, unmapped: Sequence[int]) -> list[str]:
    """Sentences about content that was not read; `unmapped` are pages whose characters have no Unicode mapping."""
    found = []
    if unmapped:
        found.append(
            f"the characters of {page_ranges(unmapped)} could not be mapped to Unicode, so words are wrong or missing "
            "there; run text recognition (OCR) over it"
        )
    if files := _attached(reader):
        more = f" and {len(files) - _MAX_NAMES} more" if len(files) > _MAX_NAMES else ""
        found.append(f"files in it were not read: {', '.join(files[:_MAX_NAMES])}{more}; save them and load each")
    if _is_dynamic_form(reader):
        found.append(
            "it is an XFA form, which only Adobe's programs show; its fields were not read, and the text may be a "
            "placeholder; print it to a new PDF there"
        )
    return found


def _attached(reader: PdfReader) -> list[str]:
    """The names of attached files, of the document (as in a portfolio) or of a page."""
    try:
        names = [file.name for file in reader.attachment_list]
        for page in reader.pages:
            files = (one["/FS"] for one in objects(entry(page, "/Annots")) if one.get("/Subtype") == "/FileAttachment")
            names += [str(file.get("/UF") or file.get("/F")) for file in files]
        return [name[:_MAX_NAME] for name in names]
    except Exception:
        return ["(their names are damaged)"]


def _is_dynamic_form(reader: PdfReader) -> bool:
    """Whether a form's fields are only in its XFA part."""
    with contextlib.suppress(Exception):
        form = reader.root_object.get("/AcroForm", {}).get_object()
        has_fields = bool(form.get("/Fields", []).get_object()) if "/Fields" in form else False
        return "/XFA" in form and (bool(reader.root_object.get("/NeedsRendering")) or not has_fields)
    return False
