"""The questions that a reader is trained on: answered by their texts, and nothing of them is in the tests."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
FILES = sorted((ROOT / "scripts" / "reading").glob("*.jsonl"))
#: Novels whose questions tune or test.
HELD_OUT = {
    "105_persuasion",
    "1400_great_expectations",
    "155_the_moonstone",
    "209_the_turn_of_the_screw",
    "2775_the_good_soldier",
    "33_the_scarlet_letter",
    "36_the_war_of_the_worlds",
    "550_silas_marner",
    "62_a_princess_of_mars",
    "768_wuthering_heights",
    "76_adventures_of_huckleberry_finn",
    "78_tarzan_of_the_apes",
}


def words(text: str) -> str:
    return " ".join(text.split())


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_answer_stands_in_its_text_and_the_wrong_one_is_another(file: Path, request: Any) -> None:
    for row in rows(file):
        text = row.get("passage")
        if text is None:
            book = request.getfixturevalue("shared_data") / "books" / f"{row['book']}.txt"
            text = book.read_text(encoding="utf-8")[row["start"] : row["end"]]
        for question in row["questions"]:
            assert words(question["answer"]).casefold() in words(text).casefold()
            assert words(question["wrong"]).casefold() != words(question["answer"]).casefold()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_novel_with_test_questions_is_among_them(file: Path) -> None:
    assert not HELD_OUT & {row.get("book") for row in rows(file)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_they_share_no_eight_words_with_the_facts_that_test(file: Path) -> None:
    def eights(text: str) -> set[tuple[str, ...]]:
        found = re.findall(r"\w+", text.casefold())
        return {tuple(found[start : start + 8]) for start in range(len(found) - 7)}

    tested = [
        fact[key]
        for name in ("wordings.json", "wordings_tuning.json")
        for fact in json.loads((ROOT / "benchmarks" / name).read_text(encoding="utf-8"))
        for key in ("text", "question")
    ]
    known = set().union(*map(eights, tested))
    for row in rows(file):
        for text in (row.get("passage", ""), *(question["question"] for question in row["questions"])):
            assert not eights(text) & known
