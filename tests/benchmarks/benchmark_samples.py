"""Rows as the speed benchmark writes them."""

from __future__ import annotations

from typing import Any


def row(task: str, length: int, chunk_size: int = 0, **measured: Any) -> dict[str, Any]:
    facts = {"length": length, "chunk_size": chunk_size}
    return {"task": task, "id": f"{length}/{chunk_size}", "place": 0, "facts": facts, "tokens": length, **measured}
