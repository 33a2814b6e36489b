"""The questions about five held-out novels: their patterns match their places."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

NOVELS: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[2] / "benchmarks" / "novels.json").read_text(encoding="utf-8")
)


def test_there_are_thirty_different_ones_about_each() -> None:
    assert [len(questions) for questions in NOVELS.values()] == [30] * 5
    assert len({each["question"] for questions in NOVELS.values() for each in questions}) == 150


@pytest.mark.parametrize("name", list(NOVELS))
def test_the_answer_stands_around_its_places(name: str, shared_data: Path) -> None:
    text = (shared_data / "books" / f"{name}.txt").read_text(encoding="utf-8")
    for each in NOVELS[name]:
        for start, end in each["places"]:
            assert 0 <= start < end <= len(text)
            assert re.search(each["answer"], text[max(0, start - 300) : end + 300]), each["question"]
