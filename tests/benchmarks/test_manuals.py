"""The questions about a tax form's instructions and the Python reference: their patterns match the quoted places."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import regex

from focusdoc import load
from focusdoc.evaluation.loading import long_texts

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TESTED, TUNED = (
    json.loads((BENCHMARKS / f"{name}.json").read_text(encoding="utf-8")) for name in ("manuals", "manuals_tuning")
)


def test_there_are_different_ones_to_test_and_to_tune() -> None:
    assert {name: len(rows) for name, rows in TESTED.items()} == {"i1040nr": 60, "python_reference": 40}
    assert {name: len(rows) for name, rows in TUNED.items()} == {"i1040nr": 40, "python_reference": 30}
    everything = [row for rows in (*TESTED.values(), *TUNED.values()) for row in rows]
    assert len({row["question"] for row in everything}) == 170
    assert not {place for rows in TESTED.values() for row in rows for place in row["places"]} & {
        place for rows in TUNED.values() for row in rows for place in row["places"]
    }


def check(text: str, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        pattern = regex.compile(row["answer"])
        assert not pattern.search(row["question"]), row["question"]
        for place in row["places"]:
            found = [each.span() for each in regex.finditer(r"\s+".join(map(regex.escape, place.split())), text)]
            assert found, place
            assert any(pattern.search(text[max(0, start - 300) : end + 300]) for start, end in found), row["question"]


@pytest.mark.parametrize("rows", [TESTED["i1040nr"], TUNED["i1040nr"]], ids=["tested", "tuned"])
def test_the_form_answers_them(rows: list[dict[str, Any]], shared_data: Path) -> None:
    check(load(shared_data / "pdf" / "i1040nr.pdf").text, rows)


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the quotations are from the reference of Python 3.11")
@pytest.mark.parametrize("rows", [TESTED["python_reference"], TUNED["python_reference"]], ids=["tested", "tuned"])
def test_the_reference_answers_them(rows: list[dict[str, Any]]) -> None:
    (reference,) = long_texts(None)
    check(reference.text, rows)
