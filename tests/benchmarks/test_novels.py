"""The questions about five held-out novels, and about three others to tune on: their patterns match their places."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TESTED, TUNED = (
    json.loads((BENCHMARKS / f"{name}.json").read_text(encoding="utf-8")) for name in ("novels", "novels_tuning")
)
NOVELS: dict[str, list[dict[str, Any]]] = TESTED | TUNED


def test_there_are_as_many_different_ones_about_each() -> None:
    assert [len(questions) for questions in NOVELS.values()] == [30] * 5 + [25] * 3
    assert len({each["question"] for questions in NOVELS.values() for each in questions}) == 225


@pytest.mark.parametrize("name", list(NOVELS))
def test_the_answer_stands_around_its_places(name: str, shared_data: Path) -> None:
    text = (shared_data / "books" / f"{name}.txt").read_text(encoding="utf-8")
    for each in NOVELS[name]:
        for start, end in each["places"]:
            assert 0 <= start < end <= len(text)
            assert re.search(each["answer"], text[max(0, start - 300) : end + 300]), each["question"]
