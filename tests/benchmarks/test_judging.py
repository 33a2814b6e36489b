"""Weights of choosing and of doubt are learnt from rows; held-out questions share no paragraph with the document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import judging
import pytest
import torch


def paragraph(number: int) -> dict[str, Any]:
    fact = f"The mill number {number} is red."
    return {"context": fact, "qas": [{"question": f"What is {number}?", "answers": [{"text": "red"}]}]}


def test_of_every_two_paragraphs_one_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "squad.json"
    file.write_text(json.dumps({"data": [{"paragraphs": [paragraph(number) for number in range(20)]}]}))
    text, rows = judging.divided(file, 0.5, 1.0, 3)
    assert [row["told"] for row in rows] == [True, False] * 3
    for row in rows:
        number = row["question"].removeprefix("What is ").removesuffix("?")
        assert (f"number {number} " in text) is row["told"]
        assert int(number) >= 10


def draft(right: float, *signals: float) -> dict[str, Any]:
    signals = (*signals, 1)
    return {"text": f"word{right}", "passages": 1, "right": right, "signals": [float(signal) for signal in signals]}


def test_what_tells_right_drafts_from_wrong_ones_gets_weight() -> None:
    # The fourth signal is larger for the right draft, the fifth says nothing.
    rows = [
        {"file": "a", "drafts": [draft(0.0, 0, 1, 0, -3, number % 3), draft(1.0, 0, 1, 0, -1, (number + 1) % 3)]}
        for number in range(12)
    ]
    weights = judging.fit_selection(rows)
    assert weights[3] > 0.5
    assert abs(weights[4]) < weights[3] / 2
    assert all(judging.selected_draft(row, weights)["right"] == 1.0 for row in rows)


def test_of_drafts_with_the_same_words_the_one_of_a_single_passage_is_chosen() -> None:
    apart, together, other = (
        {"text": text, "passages": count} for text, count in (("a mill", 1), ("A mill.", 3), ("oak", 1))
    )
    assert judging.chosen([apart, together, other], [1.0, 3.0, 2.0]) == apart
    assert judging.chosen([apart, together, other], [1.0, 2.0, 3.0]) == other


@pytest.mark.parametrize("copies", [1, 9])
def test_doubt_does_not_depend_on_how_many_of_each_kind_there_are(copies: int) -> None:
    told, untold = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[-1.0], [-2.0], [1.5]])
    signals = torch.cat([told.repeat(copies, 1), untold])
    labels = torch.cat([torch.ones(3 * copies), torch.zeros(3)])
    weights, bias = judging.fit_confidence(signals, labels)
    # The boundary lies between the two kinds, wherever more of one were asked.
    assert -0.5 < float(-bias / weights[0]) < 1.5
