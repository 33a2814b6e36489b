"""Parsing PDFs, web pages, e-books, office files and e-mails in a child process with limits on time and memory."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from focusdoc.documents.child import run_child
from focusdoc.documents.document import Document, Page, page_ranges
from focusdoc.documents.limits import LoadLimits
from focusdoc.documents.parsed import Request
from focusdoc.documents.sentences import goes_on
from focusdoc.errors import DocumentError, DocumentLimitError, EmptyDocumentError, EncryptedDocumentError

_WORKER = "focusdoc.documents.worker"
#: Names of the kinds in error messages.
_NAMES = {"pdf": "PDF", "html": "page", "zip": "file", "email": "e-mail"}
#: Errors that the worker reports, in words behind the name of the file: it is locked, over a limit, or the rest.
_LOCKED = {
    "protected": "is {message}; save a copy without protection and give that",
    "encrypted": "is encrypted; give its password (password=...)",
    "password": "is encrypted and the password is wrong; check it and try again",
    "dependency": "is encrypted in a way that needs one more package ({message}); run: pip install cryptography",
}
_LIMITED = {
    "unpacked": "has {message} bytes unpacked, more than max_unpacked = {limits.max_unpacked:,}; it may be malicious; "
    "if you trust it, raise the limit with limits=LoadLimits(max_unpacked=...)",
    "memory": "needs more than max_memory = {limits.max_memory:,} bytes to parse; it may be malicious; if you trust "
    "it, raise the limit with limits=LoadLimits(max_memory=...)",
    "pages": "has {message}, more than max_pages = {limits.max_pages:,}; split it, or raise the limit with "
    "limits=LoadLimits(max_pages=...)",
    "characters": "has more than max_characters = {limits.max_characters:,} characters ({message}); split it, or raise "
    "the limit with limits=LoadLimits(max_characters=...)",
    "limit": "exceeds a safety limit of its parser ({message}); it is damaged or malicious, so save or print it to a "
    "new file if you trust it",
}
_OTHERS = {
    "missing": "needs the package {message} to be read; run: pip install {message}",
    "damaged": "is a damaged {kind} ({message}); get a fresh copy, or repair it{repair}",
}
#: Exit codes of a process that was killed for its memory or CPU time.
_KILLED = {-getattr(signal, name) for name in ("SIGKILL", "SIGXCPU") if hasattr(signal, name)}
#: Most characters of a title or an author.
_MAX_FIELD = 1000


def load_parsed(kind: str, data: bytes, known: dict[str, Any], password: str | None, limits: LoadLimits) -> Document:
    """Parse a file into a document with pages, chapters, slides, sheets or sections.

    Pages without text are kept and listed in ``metadata["pages_without_text"]``.

    Args:
        kind: "pdf", "html", "zip" (e-books and office files) or "email".
        known: metadata known so far, with ``name``.

    Raises:
        EncryptedDocumentError: no password or the wrong one, or the package for decryption is not installed.
        DocumentLimitError: a limit is exceeded.
        EmptyDocumentError: no page has text.
        DocumentError: the file is damaged, or of none of these kinds.
    """
    name = known["name"]
    request = Request(kind, name, password, limits)
    answer = _run_worker(request, data)
    if "error" in answer:
        raise _error(answer["error"], answer["message"], request)
    texts = [text.rstrip() for text in answer["pages"]]
    empty = [number for number, text in enumerate(texts, start=1) if not text]
    if len(empty) == len(texts):
        raise _no_text(name, answer)
    unit, left_out = answer["unit"], answer["left_out"]
    if empty:
        where = page_ranges(empty, unit)
        left_out.insert(
            0, f"{len(empty):,} of {len(texts):,} {unit}s have no text, so nothing can be found there ({where})"
        )
    labels = answer["labels"] or [None] * len(texts)
    # What separates two pages is part of the first, so that the pages tile the text.
    for number, following in enumerate(texts[1:]):
        texts[number] += "\n" if unit == "page" and goes_on(texts[number], following) else "\n\n"
    pages = []
    start = 0
    for number, (text, label) in enumerate(zip(texts, labels, strict=True), start=1):
        end = start + len(text)
        pages.append(Page(number, label, start, end))
        start = end
    metadata = {
        **known,
        "format": answer["format"],
        "num_pages": len(pages),
        "unit": unit,
        **{key: answer[key][:_MAX_FIELD] for key in ("title", "author") if answer[key]},
        "pages_without_text": empty,
        "left_out": left_out,
        "warnings": answer["warnings"],
    }
    return Document("".join(texts), tuple(pages), metadata)


def _no_text(name: str, answer: dict[str, Any]) -> EmptyDocumentError:
    num_pages = len(answer["pages"])
    if answer["left_out"]:
        return EmptyDocumentError(f"{name!r} has no text of its own: {'; '.join(answer['left_out'])}.")
    if answer["format"] != "pdf":
        return EmptyDocumentError(f"{name!r} has no text; give a document with at least one word.")
    if not num_pages:
        return EmptyDocumentError(f"{name!r} is a PDF without pages; give one with text.")
    return EmptyDocumentError(
        f"{name!r} has no text on any of its {num_pages} pages; it is probably scanned, so run text recognition "
        "(OCR, for example ocrmypdf) over it first."
    )


def _run_worker(request: Request, data: bytes) -> dict[str, Any]:
    """The worker's answer; an error answer if the worker died.

    Raises:
        DocumentLimitError: the worker ran out of time. DocumentError: it could not be started.
    """
    name, limits = request.name, request.limits
    if not sys.executable:
        raise DocumentError(f"{name!r} cannot be parsed: this program hides Python's executable (sys.executable).")
    try:
        done = run_child(_WORKER, asdict(request), data, limits.max_seconds)
    except subprocess.TimeoutExpired:
        raise DocumentLimitError(
            f"{name!r} took longer than max_seconds = {limits.max_seconds:g} to parse; it may be malicious; "
            "if you trust it, raise the limit with limits=LoadLimits(max_seconds=...)."
        ) from None
    except OSError as error:
        raise DocumentError(f"{name!r} cannot be parsed: the parser's process does not start ({error}).") from error
    if done.returncode == 0:
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer
    last_line = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
    if "MemoryError" in last_line or done.returncode in _KILLED:
        return {"error": "memory", "message": ""}
    return {"error": "damaged", "message": f"the parser died with code {done.returncode}: {last_line}"}


def _error(kind: str, message: str, request: Request) -> DocumentError:
    """The exception for an error that the worker reported."""
    if kind == "refused":
        return DocumentError(message)
    error = EncryptedDocumentError if kind in _LOCKED else DocumentLimitError if kind in _LIMITED else DocumentError
    repair = " (for example qpdf)" if request.kind == "pdf" else ""
    words = (_LOCKED | _LIMITED | _OTHERS).get(kind, _OTHERS["damaged"])
    words = words.format(message=message, limits=request.limits, kind=_NAMES[request.kind], repair=repair)
    return error(f"{request.name!r} {words}.")
