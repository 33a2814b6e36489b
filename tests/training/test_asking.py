"""Questions with passages beside them: drawn from the chunks, mostly the right one, within their limit."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from focusdoc.config import QUOTE_TOKENS
from focusdoc.decoding.prompt import GAP, encode_text
from focusdoc.errors import ConfigError
from focusdoc.training.asking import Passages, Question
from focusdoc.training.dense import TrainingPrompt
from focusdoc.training.settings import SampleShape

FACT = "The door code of Oslo is 771204."
OTHERS = ["The door code of Riga is 640275.", "The door code of Lima is 105938."]
#: Chunks of about a thousand characters, each with one fact in its middle; no two sentences are alike.
TEXTS = [
    " ".join([*(f"Wind {chunk}{line} went over the sea." for line in range(20)), fact, f"Boat {chunk} was old. " * 28])
    for chunk, fact in enumerate((OTHERS[0], FACT, OTHERS[1]))
]


@pytest.fixture(scope="module")
def passages(tiny_tokenizer: Any) -> Passages:
    return Passages([encode_text(tiny_tokenizer, text) for text in TEXTS], [*OTHERS, FACT], tiny_tokenizer)


def question(style: Any = "chat") -> Question:
    return Question("What is the door code of Oslo?", (5, 2), style, "number", FACT, FACT.index("771204"))


@given(st.integers(0, 2**20))
def test_passages_are_the_chunks_own_words_and_few(passages: Passages, tiny_tokenizer: Any, seed: int) -> None:
    quoted = passages.draw(random.Random(seed), question())
    assert len(encode_text(tiny_tokenizer, quoted)) <= QUOTE_TOKENS
    found = [next(index for index, text in enumerate(TEXTS) if part in text) for part in quoted.split(GAP) if part]
    assert found == sorted(found)  # in the order of the document


def test_the_answer_is_mostly_in_them(passages: Passages) -> None:
    drawn = [passages.draw(random.Random(seed), question()) for seed in range(300)]
    with_answer = sum("771204" in quoted for quoted in drawn)
    assert 0.8 < with_answer / len(drawn) < 0.98
    assert sum(any(other in quoted for other in OTHERS) for quoted in drawn) > 60


def test_the_others_are_often_on_the_page_of_the_answer(passages: Passages) -> None:
    drawn = [passages.draw(random.Random(seed), question()).split(GAP) for seed in range(300)]
    beside = [any("771204" not in part and part in TEXTS[1] for part in parts if part) for parts in drawn]
    assert 0.3 < sum(beside) / len(beside) < 0.8


def test_a_neighbours_line_may_stand_on_either_side_of_the_right_one(tiny_tokenizer: Any) -> None:
    lines = [f"The key of cupboard number {number} in this house is {number * 7919}." for number in range(11, 60)]
    right = lines[24]
    asked = Question("Which?", (5,), "chat", "pair", right, right.index(str(35 * 7919)))
    passages = Passages([encode_text(tiny_tokenizer, "\n".join(lines))], [], tiny_tokenizer)
    drawn = [passages.draw(random.Random(seed), asked) for seed in range(300)]
    found = [quoted.splitlines() for quoted in drawn if right in quoted]
    assert len(found) > 240
    for neighbour in (lines[23], lines[25]):
        assert 0.1 < sum(neighbour in quoted for quoted in found) / len(found) < 0.9


def test_what_was_never_planted_is_not_quoted(passages: Passages) -> None:
    absent = Question("Who?", (5,), "chat", "words", "It is not there.", 3)
    assert all("not there" not in passages.draw(random.Random(seed), absent) for seed in range(20))


@pytest.mark.parametrize("style", ["chat", "plain", None])
def test_the_dynamic_prompt_has_no_passages_and_ends_alike(tiny_tokenizer: Any, style: Any) -> None:
    asked = question(style).to_training_prompt(tiny_tokenizer, "A passage.")
    alone = question(style).to_training_prompt(tiny_tokenizer)
    assert asked.token_ids == alone.token_ids
    assert not alone.local_ids
    assert alone.local == alone.token_ids[:-2]
    assert "A passage." in tiny_tokenizer.decode(asked.local)
    assert asked.local[-1] == asked.token_ids[-3]


def test_a_local_context_of_another_question_is_refused() -> None:
    with pytest.raises(ConfigError, match="local_ids must end with the token"):
        TrainingPrompt((5, 6, 7), 1, "test", local_ids=(5, 9))


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_the_share_is_checked(share: float) -> None:
    with pytest.raises(ConfigError, match=f"quoted is {share}"):
        SampleShape(quoted=share)
