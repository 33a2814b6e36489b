"""What is planted in a sample: everything may be asked about, nothing twice, and no question has two answers."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from focusdoc.training.asking import Question
from focusdoc.training.facts import FACT_MAKERS
from focusdoc.training.planting import ChunkBuilder, Planting, group_by_passage

PASSAGE = "The keeper of the light is called Anna Brandt, and she is forty."
QUESTIONS = [
    (PASSAGE, "Who keeps the light?", "Anna Brandt"),
    (PASSAGE, "How old is the keeper?", "forty"),
    (PASSAGE, "Who keeps the light?", "Anna Brandt"),
]


def planting_in(
    tokenizer: Any, seed: int, *, num_chunks: int = 4, chunk_size: int = 2048
) -> tuple[Planting, ChunkBuilder]:
    rng = random.Random(seed)
    builder = ChunkBuilder([[0] * chunk_size for _ in range(num_chunks)], rng)
    return Planting(tokenizer, builder, rng, QUESTIONS, group_by_passage(QUESTIONS)), builder


def asked_of(planting: Planting, kind: str, count: int) -> list[Question]:
    return [question for _ in range(count) if (question := planting.ask_fact(kind)) is not None]


class TestFacts:
    @pytest.mark.parametrize("kind", sorted(FACT_MAKERS))
    @given(seed=st.integers(0, 10_000))
    @settings(max_examples=10)
    def test_are_asked_about_once_each_and_stand_in_a_chunk(self, tiny_tokenizer: Any, kind: str, seed: int) -> None:
        planting, builder = planting_in(tiny_tokenizer, seed)
        asked = asked_of(planting, kind, 12)
        text = "".join(tiny_tokenizer.decode(chunk) for chunk in builder.build(frozenset()))
        assert asked
        assert max(Counter(question.planted for question in asked).values()) == 1
        for question in asked:
            assert question.planted in planting.planted
            assert question.planted in text
            assert question.wordings <= planting.answered

    def test_are_asked_about_though_planted_as_distractors(self, tiny_tokenizer: Any) -> None:
        """Where only the first fact finds room, the questions that follow are about what came with it."""
        most = 0
        for seed in range(20):
            planting, builder = planting_in(tiny_tokenizer, seed, num_chunks=1, chunk_size=900)
            first = asked_of(planting, "words", 1)
            planted = len(planting.planted)
            builder.plant = lambda statement: False  # type: ignore[method-assign]  # full from here on
            later = asked_of(planting, "words", 20)
            assert len(first) + len(later) == planted
            most = max(most, len(later))
        assert most >= 4

    def test_in_a_list_of_pairs_are_all_asked_about(self, tiny_tokenizer: Any) -> None:
        most = 0
        for seed in range(10):
            planting, _ = planting_in(tiny_tokenizer, seed, num_chunks=1)
            most = max(most, len(asked_of(planting, "pair", 40)))
        assert most > 10

    def test_never_answer_a_question_of_one_another(self, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Three numbers at most can be drawn here: every other draw would tell another value of one of them."""
        make = FACT_MAKERS["number"]
        monkeypatch.setitem(FACT_MAKERS, "number", lambda rng: make(random.Random(rng.randrange(3))))
        monkeypatch.setattr("focusdoc.training.facts.LOOKALIKES", 0.0)
        planting, _ = planting_in(tiny_tokenizer, 0)
        assert len(asked_of(planting, "number", 30)) == len(planting.planted) == 3

    def test_begin_with_the_answer_more_often_than_their_makers_have_it(self, tiny_tokenizer: Any) -> None:
        """One wording of a number in seven does; of facts drawn for it, 0.4 and a seventh of the others: 0.49."""
        first = 0
        for seed in range(200):
            planting, _ = planting_in(tiny_tokenizer, seed, num_chunks=1)
            question = planting.ask_fact("number")
            assert question is not None
            first += planting.planted[0][0].isdigit()
        assert 0.38 < first / 200 < 0.6

    @pytest.mark.parametrize(("before", "behind"), [(" ", ""), (" ", " "), ("\n", "\n"), ("\n\n", "\n\n")])
    def test_are_set_off_from_the_text_around(
        self, tiny_tokenizer: Any, before: str, behind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("focusdoc.training.planting.DISTRACTORS", (0,))
        found = set()
        for seed in range(40):
            planting, builder = planting_in(tiny_tokenizer, seed, num_chunks=1)
            planting.ask_fact("number")
            text = tiny_tokenizer.decode(builder.build(frozenset())[0])
            ground = tiny_tokenizer.decode([0])
            left, right = text.split(planting.planted[0])
            found.add((left.replace(ground, ""), right.replace(ground, "")))
        assert (before, behind) in found


class TestPassages:
    def test_are_asked_every_question_before_they_are_planted_again(self, tiny_tokenizer: Any) -> None:
        planting, builder = planting_in(tiny_tokenizer, 3, num_chunks=1, chunk_size=len(PASSAGE) + 20)
        asked = [planting.ask_passage() for _ in range(4)]
        texts = [question.text for question in asked if question is not None]
        assert (
            sorted(question in text for question in ("Who keeps", "How old") for text in texts)
            == [False] * 2 + [True] * 2
        )
        assert [question is None for question in asked] == [False, False, True, True]  # there is room for one
        assert PASSAGE in tiny_tokenizer.decode(builder.build(frozenset())[0])

    def test_come_with_each_question_once(self) -> None:
        assert group_by_passage(QUESTIONS) == {
            PASSAGE: (("Who keeps the light?", "Anna Brandt"), ("How old is the keeper?", "forty"))
        }
