"""The long texts that needles are hidden in and perplexity is taken of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from focusdoc.documents import Document, load
from focusdoc.errors import EvaluationError

_SUFFIXES = frozenset({".txt", ".md", ".pdf"})


def long_texts(data: Path | None) -> Iterator[Document]:
    """The text at `data`, or those in the folder, by name; without it, the one that every CPython carries.

    Raises:
        EvaluationError: there is nothing of the kind at `data`. DocumentError: a text cannot be loaded.
    """
    if data is None:
        yield python_reference()
        return
    if data.is_file():
        yield load(data)
        return
    files = sorted(path for path in data.glob("*") if path.suffix.lower() in _SUFFIXES) if data.is_dir() else []
    if not files:
        raise EvaluationError(f"{data} holds no text (.txt, .md or .pdf); give a text, or a folder of them.")
    for path in files:
        yield load(path)


def python_reference() -> Document:
    """The Python language reference as CPython carries it for ``help()``: about 465 KB of text."""
    from pydoc_data.topics import topics

    text = "".join(f"{words.strip()}\n\n" for words in topics.values())
    return Document.from_text(text, {"name": "python-reference"})
