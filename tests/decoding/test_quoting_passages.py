"""Passages: the words around a point, as whole sentences or lines."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from focusdoc import Document, FocusConfig, FocusEngine
from focusdoc.decoding.quoting import WIDTH, Texts, drop_unrelated_lines, runs
from tiny_models import tiny_engine

TEXT = "\n".join(f"The colour of house {number} is number {number * 7}." for number in range(60))
KEYS = "\n".join(f"key{number * 7919 % 10000:04}: value{number * 104729 % 10000:04}" for number in range(60))


@given(st.sets(st.integers(0, 60)))
def test_runs_are_the_tokens_themselves(tokens: set[int]) -> None:
    found = list(runs(tokens))
    assert {token for first, behind in found for token in range(first, behind)} == tokens
    assert all(behind < first for (_, behind), (first, _) in pairwise(found))


@given(st.sets(st.integers(0, 200)), st.integers(1, 50))
def test_runs_join_what_lies_closely(tokens: set[int], apart: int) -> None:
    found = list(runs(tokens, apart))
    assert sum(behind - first for first, behind in found) >= len(tokens)
    assert all(first in tokens and behind - 1 in tokens for first, behind in found)
    assert all(first - (behind - 1) > apart for (_, behind), (first, _) in pairwise(found))


@pytest.fixture(scope="module")
def engine(tiny_tokenizer: Any) -> FocusEngine:
    return tiny_engine(tiny_tokenizer, FocusConfig(chunk_size=64, local_window=700))


@pytest.fixture(scope="module")
def memory(engine: FocusEngine) -> Any:
    return engine.read(Document.from_text(TEXT))


@pytest.fixture(scope="module")
def texts(engine: FocusEngine) -> Texts:
    """A list of keys, and sentences."""
    return Texts([engine.read(Document.from_text(text)) for text in (KEYS, TEXT)], engine.base.tokenizer)


@pytest.fixture(scope="module")
def long_lines(engine: FocusEngine) -> Texts:
    lines = "\n".join(f"key{number}: {'x' * 80}{number}" for number in range(20))
    return Texts([engine.read(Document.from_text(lines))], engine.base.tokenizer)


class TestTexts:
    def test_a_passage_is_the_documents_own_words(self, engine: FocusEngine, memory: Any) -> None:
        texts = Texts([memory, memory], engine.base.tokenizer)
        owner, token = texts.place(memory.num_chunks + 1, 10)
        assert (owner, token) == (1, 74)
        around = texts.around(owner, token)
        assert token in around
        (passage,) = texts.passages(owner, set(around))
        assert passage in TEXT
        assert passage == passage.strip()

    @given(st.data())
    def test_any_stretch_of_tokens_is_told(self, engine: FocusEngine, memory: Any, data: st.DataObject) -> None:
        first = data.draw(st.integers(0, memory.num_tokens - 1))
        behind = data.draw(st.integers(first + 1, memory.num_tokens))
        (told,) = Texts([memory], engine.base.tokenizer).passages(0, set(range(first, behind)))
        assert engine.base.tokenizer.decode(memory.token_ids[first:behind]).strip() in told

    def test_two_passages_with_a_few_tokens_between_are_one(self, engine: FocusEngine) -> None:
        lines = "\n".join(f"{number:04}: {number * 7919 % 10000:04}" for number in range(60))  # 11 tokens each
        memory = engine.read(Document.from_text(lines))
        texts = Texts([memory], engine.base.tokenizer)
        (told,) = texts.passages(0, {*range(100, 164), *range(190, 254)})
        assert told in lines
        apart = texts.passages(0, {*range(100, 164), *range(300, 364)})
        assert len(apart) == 2
        assert all(set(passage.split("\n")) <= set(lines.split("\n")) for passage in apart)  # whole lines

    @given(st.sets(st.integers(0, 400), min_size=1))
    def test_no_two_passages_hold_the_same_words(self, engine: FocusEngine, memory: Any, tokens: set[int]) -> None:
        told = Texts([memory], engine.base.tokenizer).passages(0, tokens)
        place = 0
        for passage in told:  # each is found behind the one before it
            place = TEXT.index(passage, place) + len(passage)


class TestLists:
    def test_a_list_is_where_no_sentence_ends(self, texts: Texts) -> None:
        assert texts.in_list(0, 300)
        assert not texts.in_list(1, 300)

    def test_sentences_of_another_script_are_no_list(self, engine: FocusEngine) -> None:
        document = Document.from_text("\n".join(f"第{number}号门的密码是{number * 7}。" for number in range(60)))
        assert not Texts([engine.read(document)], engine.base.tokenizer).in_list(0, 600)

    @given(token=st.integers(0, 1000))
    def test_a_passage_is_whole_lines_around_the_point(self, texts: Texts, token: int) -> None:
        around = texts.around(0, token)
        assert token in around
        assert len(around) <= WIDTH
        (passage,) = texts.passages(0, set(around))
        assert set(passage.split("\n")) <= set(KEYS.split("\n"))

    @given(token=st.integers(200, 1500))
    def test_a_line_longer_than_a_passage_brings_no_other(self, long_lines: Texts, token: int) -> None:
        (passage,) = long_lines.passages(0, set(long_lines.around(0, token)))
        lines = passage.split("\n")
        assert len(lines) <= 2  # the point itself may lie in two
        assert all(line.startswith("key") for line in lines)

    def test_of_lines_alike_the_one_with_the_questions_key_is_quoted(self, texts: Texts) -> None:
        places = [(0, KEYS.index("value") + 100 * number) for number in range(6)]
        wanted = places[3]
        (line, *_) = texts.passages(0, set(texts.around(*wanted)))
        key = line.split("\n")[1].split(":")[0]
        assert drop_unrelated_lines(places, texts, f"What is the value of {key}?") == [wanted]

    def test_where_no_line_has_a_word_of_the_question_all_stay(self, texts: Texts) -> None:
        places = [(0, 100 * number) for number in range(6)]
        assert drop_unrelated_lines(places, texts, "Anything else?") == places

    def test_sentences_stay_whatever_they_say(self, texts: Texts) -> None:
        places = [(1, 100 * number) for number in range(6)]
        assert drop_unrelated_lines(places, texts, "What is the colour of house 7?") == places

    def test_nothing_looked_at_is_nothing(self, texts: Texts) -> None:
        assert drop_unrelated_lines([], texts, "Where?") == []
