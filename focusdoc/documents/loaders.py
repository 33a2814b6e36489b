"""Loading a document from a file, from bytes or from a text."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from focusdoc.documents.decoding import decode
from focusdoc.documents.document import Document
from focusdoc.documents.limits import LoadLimits
from focusdoc.errors import DocumentError, DocumentLimitError, EmptyDocumentError

_MARKDOWN = (".md", ".markdown", ".mdx")
#: A missing file with one of these endings is a mistake, not a text.
_ENDINGS = (
    *(".pdf", ".txt", ".text", ".log", ".rst", ".tex", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".html"),
    *(".htm", ".docx", ".doc", ".epub", ".odt", ".py", ".cpp", ".rs", ".java", ".js", ".ts"),
)
_LONGEST_PATH = 1024
#: With spaces in it, a string longer than a file name can be is a text, even if it ends in ".txt".
_LONGEST_NAME = 255
_PDF_HEADER = re.compile(rb"%PDF-\d")
#: How far into a file the PDF standard's readers look for the header.
_PDF_HEADER_WITHIN = 1024


def load(
    source: str | os.PathLike[str] | bytes,
    *,
    password: str | None = None,
    name: str | None = None,
    limits: LoadLimits | None = None,
) -> Document:
    """Load a text, Markdown or PDF document, whole or not at all.

    A PDF is told by its header, everything else is text: UTF-8, or UTF-16/32 with a byte order mark. In text from
    a file or from bytes, ``\\r\\n`` and ``\\r`` become ``\\n``, as Python's own text mode does; a text given as
    ``str`` stays as it is. Markdown is kept as it is written. A text with form feeds has a page for each.

    Args:
        source: a path, the bytes of a file, or the text itself. A ``str`` is a path if there is such a file or if
            it plainly looks like one; ``Document.from_text`` takes any text without asking.
        password: of an encrypted PDF.
        name: what to call the document; by default its file's name.
        limits: what a document may cost; ``LoadLimits()`` by default.

    Raises:
        EmptyDocumentError: no text at all, for example a scanned PDF.
        EncryptedDocumentError: a PDF that needs a password, or another one.
        DocumentLimitError: the document exceeds `limits`.
        DocumentError: missing, unreadable, binary, damaged, not in UTF-8.
    """
    limits = limits or LoadLimits()
    if isinstance(source, (bytes, bytearray, memoryview)):
        document = _from_bytes(bytes(source), {"name": name or "bytes"}, password, limits)
    elif isinstance(source, os.PathLike) or (isinstance(source, str) and _is_path(source)):
        path = Path(source)
        known = {"source": str(path), "name": name or path.name}
        document = _from_bytes(_read(path, limits), known, password, limits)
    elif isinstance(source, str):
        document = _from_text(source, {"name": name or "text"}, limits)
    else:
        raise DocumentError(f"Cannot load a {type(source).__name__}; give a path, bytes or a text.")
    return document


def _is_path(text: str) -> bool:
    """Whether a string names a file: one that exists, or a single line that can hardly be anything else."""
    if not text or len(text) > _LONGEST_PATH or "\n" in text or "\0" in text:
        return False
    try:
        if os.path.exists(text):
            return True
    except (OSError, ValueError):
        return False
    has_spaces = any(character.isspace() for character in text)
    if text.lower().endswith((*_ENDINGS, *_MARKDOWN)):
        return not has_spaces or len(text) <= _LONGEST_NAME
    return ("/" in text or os.sep in text) and not has_spaces


def _read(path: Path, limits: LoadLimits) -> bytes:
    """The bytes of a file, at most ``limits.max_bytes`` of them."""
    text_remedy = "to use the string itself as the document, call focusdoc.Document.from_text"
    if re.match(r"https?:[/\\]", str(path)):
        raise DocumentError(f"{str(path)!r} is a web address; download it and give the file.")
    if path.is_dir():
        raise DocumentError(f"{str(path)!r} is a directory; give one file of it ({text_remedy}).")
    try:
        with path.open("rb") as file:
            data = file.read(limits.max_bytes + 1)
    except FileNotFoundError:
        raise DocumentError(f"There is no file {str(path)!r}; check the path ({text_remedy}).") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DocumentError(f"{str(path)!r} cannot be read ({reason}); check the path and its permissions.") from error
    return data


def _from_bytes(data: bytes, known: dict[str, Any], password: str | None, limits: LoadLimits) -> Document:
    name = known["name"]
    if len(data) > limits.max_bytes:
        raise DocumentLimitError(
            f"{name!r} has more than max_bytes = {limits.max_bytes:,} bytes; split it, or raise the limit with "
            "limits=LoadLimits(max_bytes=...)."
        )
    if not data:
        raise EmptyDocumentError(f"{name!r} is empty (0 bytes); give a document with text.")
    ending = Path(str(known.get("source", ""))).suffix.lower()
    if _is_pdf(data, ending):
        from focusdoc.documents.pdf import load_pdf

        return load_pdf(data, known, password, limits)
    if ending == ".pdf":
        raise DocumentError(f"{name!r} is named .pdf but has no PDF header; it is damaged or another kind of file.")
    known["format"] = "markdown" if ending in _MARKDOWN else "text"
    text = decode(data, name)
    return _from_text(text.replace("\r\n", "\n").replace("\r", "\n"), known, limits)


def _is_pdf(data: bytes, ending: str) -> bool:
    head = data[:_PDF_HEADER_WITHIN]
    if ending in _MARKDOWN or (ending in _ENDINGS and ending != ".pdf"):
        # A text about PDF files may name the header in its first lines.
        head = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:16]
        return _PDF_HEADER.match(head) is not None
    return _PDF_HEADER.search(head) is not None


def _from_text(text: str, known: dict[str, Any], limits: LoadLimits) -> Document:
    if len(text) > limits.max_characters:
        raise DocumentLimitError(
            f"{known['name']!r} has {len(text):,} characters, more than max_characters = {limits.max_characters:,}; "
            "split it, or raise the limit with limits=LoadLimits(max_characters=...)."
        )
    return Document.from_text(text, known)
