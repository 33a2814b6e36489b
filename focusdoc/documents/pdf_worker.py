"""The child process that parses an untrusted PDF: the file on stdin, JSON on stdout.

Run by its path, so that it starts in a tenth of a second: it imports pypdf and nothing of this package but the file
beside it, by its path too.
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pypdf import PageObject, PdfReader

_COLUMNS = Path(__file__).with_name("pdf_columns.py")
_MOST_WARNINGS = 20
_LONGEST_WARNING = 200
_LONGEST_LABEL = 64
_LONGEST_FIELD = 1000


class Refused(Exception):
    """The PDF cannot be loaded; `kind` picks the parent's error type."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


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


def main() -> None:
    """Answer one request: a line of JSON with the settings, then the PDF's bytes, up to the end of stdin."""
    answer_file = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints from here on must not mix with the answer
    request = json.loads(sys.stdin.buffer.readline())
    _limit_resources(request)
    answer = _answer(request, sys.stdin.buffer.read())
    answer_file.write(json.dumps(answer).encode("ascii"))
    answer_file.close()


def _limit_resources(request: dict[str, Any]) -> None:
    """Limit address space, and processor time in case the parent is gone; systems without such limits go without."""
    try:
        import resource
    except ImportError:
        return
    seconds = int(request["max_seconds"]) + 5
    for which, value in ((resource.RLIMIT_AS, int(request["max_memory"])), (resource.RLIMIT_CPU, seconds)):
        try:
            hard = resource.getrlimit(which)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(which, (value, hard))
        except (ValueError, OSError):
            continue


def _answer(request: dict[str, Any], data: bytes) -> dict[str, Any]:
    try:
        return _extract(data, request)
    except Refused as error:
        return {"error": error.kind, "message": str(error)}
    except MemoryError:
        return {"error": "memory", "message": ""}
    except RecursionError:
        return {"error": "limit", "message": "it is nested too deeply"}
    except Exception as error:
        return {"error": _kind(error), "message": f"{type(error).__name__}: {error}"[:_LONGEST_FIELD].rstrip(".")}


def _kind(error: Exception) -> str:
    """What to call an exception of pypdf, or one that escaped it."""
    names = {base.__name__ for base in type(error).__mro__}
    if "DependencyError" in names:
        return "dependency"
    # Loops are reported now as a limit, now as damage.
    return "limit" if "LimitReachedError" in names or "cyclic" in str(error) else "damaged"


def _extract(data: bytes, request: dict[str, Any]) -> dict[str, Any]:
    from pypdf import PdfReader

    heard = _Warnings()
    logger = logging.getLogger("pypdf")
    logger.handlers, logger.propagate = [heard], False
    warnings.simplefilter("ignore")

    reader = PdfReader(io.BytesIO(data))
    if reader.is_encrypted:
        _decrypt(reader, request["password"])
    num_pages = len(reader.pages)
    _check_pages(reader, num_pages, request["max_pages"])
    page_text = _page_text()
    texts: list[str] = []
    characters = 0
    for number, page in enumerate(reader.pages, start=1):
        try:
            texts.append(_valid_text(page_text(page)))
        except (MemoryError, RecursionError):
            raise
        except Exception as error:
            error.args = (f"page {number}: {error}",)
            raise
        characters += len(texts[-1])
        if characters > request["max_characters"]:
            raise Refused("characters", f"{number} of {num_pages} pages have {characters:,} characters already")
    return {
        "pages": texts,
        "labels": _labels(reader, num_pages),
        "title": _field(reader, "title"),
        "author": _field(reader, "author"),
        "warnings": heard.messages,
    }


def _page_text() -> Callable[[PageObject], str]:
    """The function that reads a page, from its file: to import it would import the whole package, torch included."""
    spec = importlib.util.spec_from_file_location(_COLUMNS.stem, _COLUMNS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page_text: Callable[[PageObject], str] = module.page_text
    return page_text


def _decrypt(reader: PdfReader, password: str | None) -> None:
    # Many PDFs are encrypted against editing only and open with the empty password.
    if password is not None and reader.decrypt(password):
        return
    if not reader.decrypt(""):
        raise Refused("encrypted" if password is None else "password", "")


def _check_pages(reader: PdfReader, num_pages: int, max_pages: int) -> None:
    if num_pages > max_pages:
        raise Refused("pages", f"{num_pages:,}")
    # pypdf leaves out pages whose objects are missing; the page tree still says how many there were.
    tree = reader.root_object["/Pages"].get_object()
    declared = tree.get("/Count", num_pages) if isinstance(tree, dict) else num_pages
    if isinstance(declared, int) and num_pages < declared:
        raise Refused("damaged", f"only {num_pages} of its {declared} pages can be found")


def _valid_text(text: str) -> str:
    """The text with halves of surrogate pairs, which broken font tables yield, joined or replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _labels(reader: PdfReader, num_pages: int) -> list[str] | None:
    """The printed page numbers, if the PDF has them and they are sound."""
    try:
        if "/PageLabels" not in reader.root_object:
            return None
        labels = [_valid_text(label) for label in reader.page_labels]
    except Exception:
        return None
    usable = len(labels) == num_pages and all(len(label) <= _LONGEST_LABEL for label in labels)
    return labels if usable else None


def _field(reader: PdfReader, name: str) -> str | None:
    """Title or author, if there is one; damage here is no reason to refuse the text."""
    try:
        value = getattr(reader.metadata, name, None)
        return _valid_text(str(value)).strip()[:_LONGEST_FIELD] or None if value is not None else None
    except Exception:
        return None


if __name__ == "__main__":
    main()
