"""Loading a document from a file, from bytes or from text."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from focusdoc.documents.decoding import decode
from focusdoc.documents.document import Document
from focusdoc.documents.kinds import PARSED, kind_of
from focusdoc.documents.limits import LoadLimits
from focusdoc.errors import DocumentError, DocumentLimitError, EmptyDocumentError

#: A single line of at most so many characters is a path, even if the file does not exist.
_MAX_PATH = 1024


def load(
    source: str | os.PathLike[str] | bytes,
    *,
    password: str | None = None,
    name: str | None = None,
    limits: LoadLimits | None = None,
) -> Document:
    """Load a document: text, Markdown, PDF, HTML, e-book, office file or e-mail.

    The kind of a file is detected from its first bytes; the name only decides between kinds of text. Everything else is
    text in UTF-8 or UTF-16, or UTF-32 with a byte order mark. In files and bytes ``\\r\\n`` and ``\\r`` become ``\\n``,
    as in Python's text mode; a ``str`` is unchanged. Markdown, CSV, JSON and source code are plain text. Form feeds
    separate pages; chapters, slides, sheets and sections are used as pages, with their titles as labels.

    Args:
        source: a path (``~`` is the home folder), the bytes of a file, or a text of several lines or more than 1,024
            characters. A shorter ``str`` of one line is always a path; use `load_text` for any text.
        password: of an encrypted PDF.
        name: of the document; by default the file's name.
        limits: by default ``LoadLimits()``.

    Raises:
        EmptyDocumentError: it has no text, for example a scanned PDF.
        EncryptedDocumentError: a PDF needs a password, or another one.
        DocumentLimitError: the document exceeds `limits`.
        DocumentError: it is missing, unreadable, binary, damaged, or not in UTF-8.
    """
    limits = limits or LoadLimits()
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_bytes(bytes(source), {"name": name or "bytes"}, password, limits)
    if isinstance(source, str) and not _is_path(source):
        return load_text(source, name=name, limits=limits)
    if isinstance(source, (str, os.PathLike)):
        path = Path(os.path.expanduser(source))
        known = {"source": str(path), "name": name or path.name}
        return _from_bytes(_read(path, limits), known, password, limits)
    raise DocumentError(f"Cannot load a {type(source).__name__}; give a path, bytes or a text.")


def load_text(text: str, *, name: str | None = None, limits: LoadLimits | None = None) -> Document:
    """A document from `text` itself, of any length and unchanged; form feeds separate pages.

    Args:
        name: of the document.
        limits: by default ``LoadLimits()``.

    Raises:
        EmptyDocumentError: there is nothing but white space. DocumentLimitError: it exceeds `limits`.
        DocumentError: it has half of a surrogate pair.
    """
    return _from_text(text, {"name": name or "text"}, limits or LoadLimits())


def _is_path(text: str) -> bool:
    """Whether a string is a path: a short single line, so that a mistyped path is not loaded as a text."""
    line = text.strip()
    return bool(line) and len(line) <= _MAX_PATH and len(line.splitlines()) == 1


def _read(path: Path, limits: LoadLimits) -> bytes:
    """The bytes of a file, at most one more than ``limits.max_bytes``."""
    text_remedy = "to use the string itself as the document, call focusdoc.load_text"
    if re.match(r"https?:[/\\]", str(path)):
        raise DocumentError(f"{str(path)!r} is a web address; download it and give the file.")
    if os.path.isdir(path):
        raise DocumentError(f"{str(path)!r} is a directory; give one file of it ({text_remedy}).")
    try:
        with path.open("rb") as file:
            data = file.read(limits.max_bytes + 1)
    except FileNotFoundError:
        raise DocumentError(f"There is no file {str(path)!r}; check the path ({text_remedy}).") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DocumentError(
            f"{str(path)!r} cannot be read ({reason}); check the path and its permissions ({text_remedy})."
        ) from error
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
    ending = Path(str(known.get("source") or name)).suffix.lower()
    kind = kind_of(data, ending, name)
    if kind in PARSED:
        from focusdoc.documents.parsing import load_parsed

        return load_parsed(kind, data, known, password, limits)
    known["format"] = kind
    text = decode(data, name)
    return _from_text(text.replace("\r\n", "\n").replace("\r", "\n"), known, limits)


def _from_text(text: str, known: dict[str, Any], limits: LoadLimits) -> Document:
    if len(text) > limits.max_characters:
        raise DocumentLimitError(
            f"{known['name']!r} has {len(text):,} characters, more than max_characters = {limits.max_characters:,}; "
            "split it, or raise the limit with limits=LoadLimits(max_characters=...)."
        )
    return Document.from_text(text, known)
