"""Loading benchmark data: official JSON and JSONL files, prompt templates, and long texts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from focusdoc.documents import Document, load
from focusdoc.errors import EvaluationError

_FIELD = re.compile(r"\{(\w+)\}")


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


def task_file(data: Path | None, task: str) -> Path:
    """The official file of a task in the folder `data`; EvaluationError, with the tasks there are, if it is missing."""
    if data is None:
        raise EvaluationError(f"{task} needs the benchmark's official files; give their folder with --data.")
    if not data.is_dir():
        raise EvaluationError(f"The data folder {data} does not exist; give the one with the official files.")
    path = data / f"{task}.jsonl"
    if not path.is_file():
        available = ", ".join(sorted(found.stem for found in data.glob("*.jsonl"))) or "none"
        raise EvaluationError(f"{data} has no {path.name}; the tasks in it: {available}.")
    return path


def fill(template: str, fields: Mapping[str, str], *, task: str) -> tuple[str, str, str]:
    """Fill in a template; returns the text as (before, context, after). Braces in the values stay as they are.

    Raises:
        EvaluationError: the template has a field that is not in `fields`, or not exactly one context.
    """
    names = _FIELD.findall(template)
    for name in names:
        if name not in fields:
            known = ", ".join(sorted(fields))
            raise EvaluationError(f"The template of {task} has the unknown field {{{name}}}; known are {known}.")
    if names.count("context") != 1:
        raise EvaluationError(f"The template of {task} must have the field {{context}} exactly once.")
    before, after = (_FIELD.sub(lambda found: fields[found[1]], part) for part in template.split("{context}"))
    return before, fields["context"], after


def context_first(template: str) -> str:
    """The template with its instruction moved behind the context, verbatim.

    The paper's authors do so for some tasks, to have the instruction in the local context. A label right before the
    context ("Report:") stays there.
    """
    before, context, after = template.partition("{context}")
    instruction, _, label = before.rpartition("\n\n")
    if not context or not instruction.strip():
        return template
    return f"{label}{{context}}\n\n{instruction.strip()}\n\n{after.lstrip()}"


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
