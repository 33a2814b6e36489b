"""Generated facts: whatever is drawn, the statement holds the answer and the question does not."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from focusdoc.training.facts import FACT_MAKERS, Fact, digits, namesake, person

every_maker = pytest.mark.parametrize("kind", sorted(FACT_MAKERS))
seeds = st.integers(0, 2**32)


def gives_away(fact: Fact) -> bool:
    """Whether a question of `fact` holds its answer, as whole words."""
    answer = re.compile(rf"(?<!\w){re.escape(fact.answer)}(?!\w)")
    return any(answer.search(question) for question in (*fact.questions, *fact.completions))


def fact_and_lookalike(kind: str, seed: int) -> tuple[Fact, Fact]:
    rng = random.Random(seed)
    fact = FACT_MAKERS[kind](rng)
    assert fact.lookalike is not None
    return fact, fact.lookalike(rng)


def words_of(text: str) -> list[str]:
    return re.split(r"[\s?.\"']+", text)


@every_maker
class TestEveryMaker:
    @given(seed=seeds)
    def test_states_the_answer_to_the_letter(self, kind: str, seed: int) -> None:
        fact = FACT_MAKERS[kind](random.Random(seed))
        assert fact.answer in fact.statement

    @given(seed=seeds)
    def test_asks_without_giving_the_answer_away(self, kind: str, seed: int) -> None:
        fact = FACT_MAKERS[kind](random.Random(seed))
        assert fact.questions
        assert all(question.strip() for question in (*fact.questions, *fact.completions))
        assert not gives_away(fact)

    @given(seed=seeds)
    def test_has_lookalikes_of_its_kind(self, kind: str, seed: int) -> None:
        if kind == "passkey":  # there may be but one
            assert FACT_MAKERS[kind](random.Random(seed)).lookalike is None
            return
        _, other = fact_and_lookalike(kind, seed)
        assert other.kind == kind
        assert other.answer in other.statement
        assert not gives_away(other)

    @given(seed=seeds)
    def test_draws_the_same_lookalike_from_the_same_seed(self, kind: str, seed: int) -> None:
        drawn = [FACT_MAKERS[kind](random.Random(seed)).lookalike for _ in range(2)]
        assert len({make and make(random.Random(seed)) for make in drawn}) == 1

    @given(seed=seeds)
    def test_names_its_kind(self, kind: str, seed: int) -> None:
        assert FACT_MAKERS[kind](random.Random(seed)).kind == kind

    @given(seed=seeds)
    def test_is_one_line_without_white_space_around_it(self, kind: str, seed: int) -> None:
        fact = FACT_MAKERS[kind](random.Random(seed))
        assert fact.statement == fact.statement.strip()
        assert fact.answer == fact.answer.strip() != ""
        assert "\n" not in fact.statement

    @given(seed=seeds)
    def test_asks_about_what_the_statement_names(self, kind: str, seed: int) -> None:
        fact = FACT_MAKERS[kind](random.Random(seed))
        # Every question shares a long word, a key or a name with its statement, beside the answer.
        told = fact.statement.replace(fact.answer, "")
        assert all(any(len(word) > 3 and word in told for word in words_of(question)) for question in fact.questions)

    def test_is_a_function_of_the_generator(self, kind: str) -> None:
        facts = [FACT_MAKERS[kind](random.Random(seed)) for seed in range(50)]
        assert facts == [FACT_MAKERS[kind](random.Random(seed)) for seed in range(50)]

    def test_draws_many_statements_questions_and_answers(self, kind: str) -> None:
        rng = random.Random(0)
        facts = [FACT_MAKERS[kind](rng) for _ in range(400)]
        assert len({fact.statement for fact in facts}) > 360
        assert len({fact.answer for fact in facts}) > 100
        wordings = {"passkey": 12, "number": 300, "pair": 300, "words": 300}[kind]
        assert len({question for fact in facts for question in fact.questions}) > wordings


def test_rare_draws_do_not_give_the_answer_away_either() -> None:
    # A pet named like its owner, a person related to himself: one draw in some thousands.
    rng = random.Random(0)
    assert not [fact for fact in (FACT_MAKERS["words"](rng) for _ in range(30_000)) if gives_away(fact)]


def test_words_are_of_every_form() -> None:
    rng = random.Random(0)
    openings = {FACT_MAKERS["words"](rng).questions[0].split()[0] for _ in range(300)}
    assert {"Where", "What", "When", "Who", "Which", "How"} <= openings


@given(st.integers(0, 100), st.integers(1, 12))
def test_digits_has_as_many_as_asked_for(seed: int, length: int) -> None:
    number = digits(random.Random(seed), length)
    assert len(number) == length
    assert number.isdecimal()
    assert length == 1 or number[0] != "0"


class TestLookalikes:
    @given(seed=seeds)
    def test_a_namesake_has_the_first_or_the_last_name(self, seed: int) -> None:
        rng = random.Random(seed)
        name = person(rng)
        first, last = name.split()
        other = namesake(rng, name).split()
        assert other[0] == first or other[1] == last

    @given(seed=seeds)
    def test_a_pair_has_a_key_or_a_value_that_begins_as_the_other_does(self, seed: int) -> None:
        fact, other = fact_and_lookalike("pair", seed)

        def key(fact: Fact) -> str:
            return fact.completions[0].split('"')[1]

        assert other.answer[0] == fact.answer[0] or key(other)[0] == key(fact)[0]

    @given(seed=seeds)
    def test_a_number_has_the_same_owner_or_is_called_the_same(self, seed: int) -> None:
        named, other = (one.completions[0].removeprefix("The ") for one in fact_and_lookalike("number", seed))
        same_thing = named.split(" of ")[0] == other.split(" of ")[0]
        assert same_thing or named.split(" of ")[1] == other.split(" of ")[1]
