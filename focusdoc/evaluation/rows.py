"""Reading a benchmark's files: JSON and JSONL, with errors that name file, line and field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from focusdoc.errors import EvaluationError


def read_rows(path: Path, fields: Sequence[str], *, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file, each with at least `fields`.

    Args:
        limit: at most this many rows.

    Raises:
        EvaluationError: the file cannot be read, a line is no JSON object, or a row lacks a field.
    """
    count = 0
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                if limit is not None and count >= limit:
                    return
                count += 1
                yield _row(path, number, line, fields)
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path} cannot be read ({error}); give the folder with the official files.") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object.

    Raises:
        EvaluationError: it does not exist, or holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EvaluationError(f"{path} is missing; it belongs to the benchmark's official files.") from error
    except ValueError as error:
        raise EvaluationError(f"{path} is no valid JSON ({error}).") from error
    if not isinstance(values, dict):
        raise EvaluationError(f"{path} must hold one JSON object.")
    return values


def task_file(data: Path | None, task: str) -> Path:
    """The official file of a task in the folder `data`.

    Raises:
        EvaluationError: there is no such folder or file; the message lists the tasks that are there.
    """
    if data is None:
        raise EvaluationError(f"{task} needs the benchmark's official files; give their folder with --data.")
    if not data.is_dir():
        raise EvaluationError(f"The data folder {data} does not exist; give the one with the official files.")
    path = data / f"{task}.jsonl"
    if not path.is_file():
        there = ", ".join(sorted(found.stem for found in data.glob("*.jsonl"))) or "none"
        raise EvaluationError(f"{data} has no {path.name}; the tasks in it: {there}.")
    return path


def _row(path: Path, number: int, line: str, fields: Sequence[str]) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise EvaluationError(f"{path}, line {number}, is no valid JSON ({error}).") from error
    if not isinstance(row, dict):
        raise EvaluationError(f"{path}, line {number}, must be a JSON object.")
    missing = next((name for name in fields if name not in row), None)
    if missing is not None:
        raise EvaluationError(f"{path}, line {number}, lacks the field {missing!r}; it has {', '.join(sorted(row))}.")
    return row
