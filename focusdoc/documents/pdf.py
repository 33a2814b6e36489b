"""Loading a PDF through a child process with limits on time and memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from focusdoc.documents.document import Document, Page
from focusdoc.documents.limits import LoadLimits
from focusdoc.errors import DocumentError, DocumentLimitError, EmptyDocumentError, EncryptedDocumentError

_WORKER = Path(__file__).with_name("pdf_worker.py")
#: Between two pages; belongs to the page before it, so that the pages tile the text.
PAGE_SEPARATOR = "\n\n"


def load_pdf(data: bytes, known: dict[str, Any], password: str | None, limits: LoadLimits) -> Document:
    """Extract the text of a PDF, page by page, and column by column where a page has columns.

    Pages without text stay, empty but for the separator, and are listed in ``metadata["pages_without_text"]``.

    Args:
        data: the bytes of the PDF.
        known: metadata known so far, with ``name``.
        password: opens an encrypted PDF; ``None`` for none.
        limits: on pages, characters, seconds and memory.

    Raises:
        EncryptedDocumentError: no password or the wrong one, or the package for decryption is not installed.
        DocumentLimitError: a limit was hit.
        EmptyDocumentError: not one page has text.
        DocumentError: the PDF is damaged.
    """
    name = known["name"]
    answer = _run_worker(data, name, password, limits)
    if "error" in answer:
        raise _error(answer["error"], answer["message"], name, limits)
    texts = [text.rstrip() for text in answer["pages"]]
    if not texts:
        raise EmptyDocumentError(f"{name!r} is a PDF without pages; give one with text.")
    empty = [number for number, text in enumerate(texts, start=1) if not text]
    if len(empty) == len(texts):
        raise EmptyDocumentError(
            f"{name!r} has no text on any of its {len(texts)} pages; it is probably scanned, so run text recognition "
            "(OCR, for example ocrmypdf) over it first."
        )
    labels = answer["labels"] or [None] * len(texts)
    pages = []
    start = 0
    for number, (text, label) in enumerate(zip(texts, labels, strict=True), start=1):
        end = start + len(text) + (len(PAGE_SEPARATOR) if number < len(texts) else 0)
        pages.append(Page(number, label, start, end))
        start = end
    metadata = {
        **known,
        "format": "pdf",
        "num_pages": len(pages),
        **{key: answer[key] for key in ("title", "author") if answer[key]},
        "pages_without_text": empty,
        "warnings": answer["warnings"],
    }
    return Document(PAGE_SEPARATOR.join(texts), tuple(pages), metadata)


def _run_worker(data: bytes, name: str, password: str | None, limits: LoadLimits) -> dict[str, Any]:
    """The worker's answer, or an error if it ran out of time or died."""
    if not sys.executable:
        raise DocumentError(f"{name!r} cannot be parsed: this program hides Python's executable (sys.executable).")
    request = {
        "password": password,
        "max_pages": limits.max_pages,
        "max_characters": limits.max_characters,
        "max_seconds": limits.max_seconds,
        "max_memory": limits.max_memory,
    }
    # -P keeps this folder off the child's path; it finds pypdf where this process does.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(_WORKER)],
            input=json.dumps(request).encode("ascii") + b"\n" + data,
            capture_output=True,
            timeout=limits.max_seconds,
            env=environment,
            check=False,
        )
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
    last_words = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
    if "MemoryError" in last_words or done.returncode in _killed_by_limits():
        return {"error": "memory", "message": ""}
    return {"error": "damaged", "message": f"the parser died with code {done.returncode}: {last_words}"}


def _killed_by_limits() -> set[int]:
    """Exit codes of a process that the system killed for its memory or processor time."""
    return {-getattr(signal, name) for name in ("SIGKILL", "SIGXCPU") if hasattr(signal, name)}


def _error(kind: str, message: str, name: str, limits: LoadLimits) -> DocumentError:
    """The error for what the worker reported."""
    if kind == "encrypted":
        return EncryptedDocumentError(f"{name!r} is encrypted; give its password (password=...).")
    if kind == "password":
        return EncryptedDocumentError(f"{name!r} is encrypted and the password is wrong; check it and try again.")
    if kind == "dependency":
        return EncryptedDocumentError(
            f"{name!r} is encrypted in a way that needs one more package ({message}); run: pip install cryptography."
        )
    if kind == "memory":
        return DocumentLimitError(
            f"{name!r} needs more than max_memory = {limits.max_memory:,} bytes to parse; it may be malicious; "
            "if you trust it, raise the limit with limits=LoadLimits(max_memory=...)."
        )
    if kind == "pages":
        return DocumentLimitError(
            f"{name!r} has {message} pages, more than max_pages = {limits.max_pages:,}; split it, or raise the limit "
            "with limits=LoadLimits(max_pages=...)."
        )
    if kind == "characters":
        return DocumentLimitError(
            f"{name!r} has more than max_characters = {limits.max_characters:,} characters ({message}); split it, or "
            "raise the limit with limits=LoadLimits(max_characters=...)."
        )
    if kind == "limit":
        return DocumentLimitError(
            f"{name!r} exceeds a safety limit of the PDF parser ({message}); it is damaged or malicious, so print it "
            "to a new PDF if you trust it."
        )
    return DocumentError(f"{name!r} is a damaged PDF ({message}); get a fresh copy, or repair it (for example qpdf).")
