"""Passages for a reader: windows that cut no answer, passages within their budget, finders that find the planted."""

from __future__ import annotations

import importlib.util
import itertools
import random

import pytest

from focusdoc.errors import EvaluationError
from focusdoc.evaluation import retrieval
from focusdoc.evaluation.retrieval import EMBEDDING_PACKAGE, FINDERS, first_with, passages
from focusdoc.readers.windows import cut

_WORDS = ["river", "stone", "market", "lantern", "captain", "winter", "bread", "garden", "letter", "harbour"]
_RNG = random.Random(3)
SENTENCES = [" ".join(_RNG.choices(_WORDS, k=9)).capitalize() + "." for _ in range(300)]
PLANTED = "The dentist of the village was called Ottilie Brandt."
SENTENCES[171] = PLANTED
TEXT = " ".join(SENTENCES)
#: The wheel with the model is part of the extra eval alone.
needs_embedding = pytest.mark.skipif(
    importlib.util.find_spec(EMBEDDING_PACKAGE) is None, reason=f"the package {EMBEDDING_PACKAGE} is not installed"
)
EVERY_FINDER = [pytest.param(name, marks=needs_embedding if name == "embedding" else ()) for name in FINDERS]


class TestWindows:
    def test_are_whole_sentences_of_about_the_width(self) -> None:
        text = f"{TEXT}\n"
        for start, end in cut(text, 400):
            assert text[start:end].endswith(".")
            assert start == 0 or TEXT[start - 2 : start] == ". "
            assert 200 <= end - start <= 400 + 2 * 160

    @pytest.mark.parametrize("width", [100, 400, 900])
    def test_whatever_is_shorter_than_half_of_one_lies_inside_one(self, width: int) -> None:
        spans = cut(TEXT, width)
        for start in range(0, len(TEXT) - width // 2, 7):
            assert first_with([(start, start + width // 2 - 1)], spans) is not None

    @pytest.mark.parametrize("text", ["One sentence.", "x" * 1000, "word " * 300, " \n "])
    def test_of_any_text_cover_all_but_white_space(self, text: str) -> None:
        spans = cut(text, 400)
        covered = {place for start, end in spans for place in range(start, end)}
        assert covered >= {place for place, letter in enumerate(text) if not letter.isspace()}
        assert len(spans) == len(set(spans))


class TestPassages:
    def found(self, *spans: tuple[int, int], budget: int = 10_000, limit: int = 6) -> list[tuple[int, int]]:
        return passages("x" * 5000, spans, budget=budget, count=len, limit=limit)

    def test_keep_the_order_of_their_rank(self) -> None:
        assert self.found((900, 1000), (0, 100), (500, 600)) == [(900, 1000), (0, 100), (500, 600)]

    def test_that_meet_are_joined_at_the_rank_of_the_best(self) -> None:
        assert self.found((900, 1000), (0, 100), (950, 1200)) == [(900, 1200), (0, 100)]
        assert self.found((0, 100), (200, 300), (100, 200)) == [(0, 300)]

    def test_end_at_the_budget_and_at_the_limit(self) -> None:
        spans = [(start, start + 100) for start in range(0, 2000, 200)]
        assert self.found(*spans, limit=4) == spans[:4]
        assert self.found(*spans, budget=350) == spans[:3]
        assert self.found(*spans, budget=1) == spans[:1]  # one is always given

    def test_a_place_is_found_only_where_a_passage_holds_all_of_it(self) -> None:
        found = [(100, 200), (300, 400)]
        assert first_with([(320, 330)], found) == 2
        assert first_with([(0, 10), (320, 330), (100, 200)], found) == 1
        assert first_with([(190, 210)], found) is None
        assert first_with([], found) is None


class TestFinders:
    @pytest.mark.parametrize("name", EVERY_FINDER)
    def test_rank_the_planted_passage_first(self, name: str) -> None:
        spans = cut(TEXT)
        rank = FINDERS[name]().index([TEXT[start:end] for start, end in spans])
        start = TEXT.index(PLANTED)
        (first, *_) = rank("Who was the village's dentist?")
        assert first_with([(start, start + len(PLANTED))], [spans[first]]) == 1

    def test_bm25_knows_words_by_their_stems_and_leaves_out_what_shares_none(self) -> None:
        rank = FINDERS["bm25"]().index(["Cats were sitting there.", "Dogs bark.", "A cat, a dog."])
        assert list(rank("Where does the cat SIT?")) == [0, 2]
        assert list(rank("Who barks?")) == [1]
        assert list(rank("To be or not to be?")) == []
        assert list(rank("Xylophones?")) == []

    @needs_embedding
    def test_embeddings_need_no_word_in_common(self) -> None:
        rank = FINDERS["embedding"]().index(["The stock market fell.", "A kitten slept on the sofa.", "It rained."])
        assert next(iter(rank("Which pet was resting?"))) == 1

    @needs_embedding
    def test_embeddings_are_those_of_the_published_weights(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retrieval, "EMBEDDING_SHA256", "0" * 64)
        with pytest.raises(EvaluationError, match="is not the expected model"):
            FINDERS["embedding"]()

    def test_a_missing_package_is_named_with_its_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retrieval.InstalledPackage, "find", lambda self, file: None)
        with pytest.raises(EvaluationError, match=rf"{EMBEDDING_PACKAGE} is not installed.*'focusdoc\[eval\]'"):
            FINDERS["embedding"]()


def test_windows_of_a_document_never_leave_its_order() -> None:
    spans = cut(TEXT)
    assert all(one[0] <= other[0] and one[1] <= other[1] for one, other in itertools.pairwise(spans))


def test_a_document_without_words_has_no_hits() -> None:
    assert list(FINDERS["bm25"]().index(["a", "?!"])("Which house is blue?")) == []
