"""The novels that the shipped adapter was trained on, and the held-out ones, the same for all benchmarks."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

_RECORD = files("focusdoc") / "adapters" / "smollm2-135m-instruct" / "adapter.json"


def held_out_names() -> frozenset[str]:
    """File names, without suffix, of the held-out novels."""
    return frozenset(json.loads(_RECORD.read_text(encoding="utf-8"))["training"]["held_out"])


def trained_books(data: Path) -> list[Path]:
    """The novels of `data`/books to train on."""
    held_out = held_out_names()
    return [path for path in sorted((data / "books").glob("*.txt")) if path.stem not in held_out]


def held_out_books(data: Path) -> list[Path]:
    """The novels of `data`/books to test on."""
    held_out = held_out_names()
    return [path for path in sorted((data / "books").glob("*.txt")) if path.stem in held_out]
