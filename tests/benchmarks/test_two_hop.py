"""Questions of two hops are made by rule: the second fact is named by the first alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from two_hop import is_date, questions, write

from focusdoc.evaluation.natural import Choice, load_items
from focusdoc.evaluation.natural_scores import right

CORPUS = [
    {
        "title": "The Last Coupon",
        "text": "The Last Coupon is a 1932 comedy film directed by Frank Launder for Gainsborough.",
    },
    {"title": "Frank Launder", "text": "Frank Launder (28 January 1906 - 23 February 1997) was a British director."},
    {"title": "Hitchin", "text": "Hitchin is a town."},
    {"title": "Rip", "text": "Rip is a film directed by Jules White in 1930."},
    {"title": "Jules White", "text": "Jules White (born Weiss; September 17, 1900) was a producer."},
    {"title": "Lost", "text": "Lost is a film directed by Nobody Known."},
]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    file = tmp_path / "corpus.json"
    file.write_text(json.dumps(CORPUS))
    return file


def test_halves_share_no_question_and_have_their_passages_alone(corpus: Path) -> None:
    texts, asked = zip(*(questions(corpus, part) for part in ("tuning", "held out")), strict=True)
    rows = [row for part in asked for row in part]
    assert {(row["director"], row["born"]) for row in rows} == {
        ("Frank Launder", "28 January 1906"),
        ("Jules White", "September 17, 1900"),
    }
    for text, part in zip(texts, asked, strict=True):
        assert text.count("\n\n") == 2 * len(part) - 1
        for row in part:
            assert row["film"] in row["question"]
            assert row["director"] not in row["question"]
            assert row["born"] in text


@pytest.mark.parametrize(
    ("text", "right"),
    [("28 January 1906", True), ("January 28, 1906.", True), ("1906", False), ("18 January 1906", False), ("", False)],
)
def test_a_date_is_right_in_any_order_and_only_whole(text: str, right: bool) -> None:
    assert is_date(text, "28 January 1906") is right


def test_the_files_for_eval_natural_have_the_dates_and_their_places(corpus: Path, tmp_path: Path) -> None:
    text, asked = questions(corpus, "held out")
    write(tmp_path / "files", text + " And so on." * 20_000, asked)
    items = load_items(tmp_path / "files" / "questions.json", Choice(), documents=tmp_path / "files")
    for item, row in zip(items, asked, strict=True):
        assert {item.context[start:end] for start, end in item.places} == {row["born"]}
        assert right(f"On {row['born']}.", item.answers)
        assert not right("In 1066.", item.answers)
