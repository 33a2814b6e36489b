"""Little files of the benchmarks' layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def longbench_row(task: str, number: int) -> dict[str, Any]:
    return {
        "input": f"What is {{context}} number {number}?",
        "context": f"A text with {{braces}} and {{input}}, the {number}th. " * 8,
        "answers": ["blue", "a blue one"],
        "length": 60,
        "dataset": task,
        "language": "en",
        "all_classes": ["blue", "red"] if task == "trec" else None,
        "_id": f"{task}-{number}",
    }


def write_json(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def write_lines(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
