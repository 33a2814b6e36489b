"""How close a measurement comes to what the machine can do: products while reading, memory while decoding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Contenders that run the model's own weights in their own dtype, whose bytes and operations are known.
_OWN_WEIGHTS = ("focus", "int8", "look", "full")


def reading_share(row: Mapping[str, Any], results: Mapping[str, Any]) -> float | None:
    """Share of the machine's rate of matrix products that reading reached; None where that is not known.

    Counted are the linear layers alone, so attention, norms and copies are what is missing to 1.
    """
    seconds = row.get("read_seconds")
    if row["contender"] not in _OWN_WEIGHTS or not seconds:
        return None
    operations = results["configuration"]["linear_operations_per_token"] * row["tokens"]
    return float(operations / seconds / results["rates"]["operations"])


def decoding_share(row: Mapping[str, Any], results: Mapping[str, Any]) -> float | None:
    """Share of the machine's memory bandwidth that a step reached; None where that is not known."""
    seconds = row.get("token_seconds")
    if row["contender"] not in _OWN_WEIGHTS or not seconds:
        return None
    return float(step_bytes(row, results["configuration"]) / seconds / results["rates"]["bandwidth"])


def step_bytes(row: Mapping[str, Any], configuration: Mapping[str, Any]) -> int:
    """Bytes that one decoding step must read: all weights once, the candidates' too, and all keys and values."""
    candidates = configuration["candidate_bytes"] if row["contender"] in ("focus", "int8") else 0
    return int(configuration["weight_bytes"] + candidates + row["kv_bytes"])
