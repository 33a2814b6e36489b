"""Loading what the evaluation needs: JSON and JSONL files, long texts, and optional packages."""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from focusdoc.documents import Document, load
from focusdoc.errors import EvaluationError


def read_rows(
    path: Path, fields: Sequence[str], *, limit: int | None = None, torn: bool = False
) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file, at most `limit`, each with at least `fields`.

    With `torn`, a last line without a line break is skipped, which a running process may still be writing.

    Raises:
        EvaluationError: the file cannot be read, or a line is not a JSON object with these fields.
    """
    count = 0
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if count == limit or (torn and not line.endswith(b"\n")):
                    return
                if not line.strip():
                    continue
                count += 1
                try:
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError("it is not a JSON object")
                    if missing := next((name for name in fields if name not in row), None):
                        raise ValueError(f"it lacks the field {missing!r} and has {', '.join(sorted(row))}")
                except ValueError as error:
                    raise EvaluationError(f"{path}, line {number}, is damaged ({error}); remove that line.") from error
                yield row
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read ({error}); give the folder with the official files.") from error


def read_json(path: Path) -> dict[str, Any]:
    """Load a JSON file; EvaluationError if there is none, or it is not one JSON object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EvaluationError(f"{path} is missing; it belongs to the benchmark's official files.") from error
    except ValueError as error:
        raise EvaluationError(f"{path} is not valid JSON ({error}).") from error
    if not isinstance(values, dict):
        raise EvaluationError(f"{path} must be one JSON object.")
    return values


def long_texts(data: Path | None) -> Iterator[Document]:
    """Load the text at `data`, or the texts in that folder, sorted by name.

    By default the Python language reference that CPython ships for ``help()``, about 465 KB of text.

    Raises:
        EvaluationError: there is no text at `data`. DocumentError: a text cannot be loaded.
    """
    if data is None:
        from pydoc_data.topics import topics

        text = "".join(f"{words.strip()}\n\n" for words in topics.values())
        yield Document.from_text(text, {"name": "python-reference"})
        return
    suffixes = (".txt", ".md", ".pdf")
    files = [data] if data.is_file() else sorted(path for path in data.glob("*") if path.suffix.lower() in suffixes)
    if not files:
        raise EvaluationError(f"{data} has no text (.txt, .md or .pdf); give a text, or a folder of them.")
    yield from map(load, files)


def needed(module: str, extra: str) -> Any:
    """Import `module`, a package of the extra called `extra`; EvaluationError if it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fuzzywuzzy recommends another package on every import
            return importlib.import_module(module)
    except ImportError as error:
        raise not_installed(module.partition(".")[0], extra) from error


def not_installed(package: str, extra: str) -> EvaluationError:
    """The error for a package of the extra called `extra` that is not installed."""
    return EvaluationError(f"The package {package} is not installed; run: pip install 'focusdoc[{extra}]'.")
