"""Retrieval: passages within budget, finders that find the planted, readers that get one prompt and one budget."""

from __future__ import annotations

import importlib.util
import itertools
import random
import threading
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import pytest

from focusdoc import Document, FocusEngine
from focusdoc.config import GenerationConfig
from focusdoc.errors import ConfigError, EvaluationError
from focusdoc.evaluation import retrieval
from focusdoc.evaluation.item import Item, ModeSettings
from focusdoc.evaluation.modes import make_mode
from focusdoc.evaluation.retrieval import EMBEDDING_PACKAGE, FINDERS, NoReader, first_with, passages
from focusdoc.readers import Reader
from focusdoc.readers.drafts import DRAFT_TOKENS
from focusdoc.readers.reader import Messages, Written, reading_prompt
from focusdoc.readers.reading import BUDGET
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
        start = TEXT.index(PLANTED)
        (first, *_) = FINDERS[name]().index(TEXT, 400)("Who was the village's dentist?")
        assert first_with([(start, start + len(PLANTED))], [first]) == 1

    def test_bm25_knows_words_by_their_stems_and_leaves_out_what_shares_none(self) -> None:
        text = "Cats were sitting there.\n\nDogs bark.\n\nA cat, a dog."
        rank = FINDERS["bm25"]().index(text, 20)
        assert [text[start:end] for start, end in rank("Where does the cat SIT?")] == text.split("\n\n")[::2]
        assert [text[start:end] for start, end in rank("Who barks?")] == ["Dogs bark."]
        assert list(rank("To be or not to be?")) == []
        assert list(rank("Xylophones?")) == []

    @needs_embedding
    def test_embeddings_need_no_word_in_common(self) -> None:
        text = "The stock market fell.\n\nA kitten slept on the sofa.\n\nIt rained a lot."
        start, end = next(iter(FINDERS["embedding"]().index(text, 20)("Which pet was resting?")))
        assert text[start:end] == "A kitten slept on the sofa."

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
    assert list(FINDERS["bm25"]().index("a\n\n?!", 2)("Which house is blue?")) == []


QUESTION = "Who was the dentist of the village?"
PLACE = (TEXT.index(PLANTED), TEXT.index(PLANTED) + len(PLANTED))
ITEM = Item(
    task="natural",
    id="1",
    before="",
    context=TEXT,
    after=f"\n\n{QUESTION}",
    answers=["Ottilie Brandt"],
    max_new_tokens=6,
    places=(PLACE,),
)
MODES = [pytest.param("read"), *EVERY_FINDER]


class Told:
    """A reader that says one thing, and keeps what it was asked."""

    name = "told"
    window = 8192

    def __init__(self) -> None:
        self.asked: list[tuple[Messages, GenerationConfig]] = []

    def count(self, text: str) -> int:
        return len(text.split())

    def check(self, settings: GenerationConfig) -> None:
        pass

    def write(
        self, messages: Messages, settings: GenerationConfig, cancel: threading.Event | None = None
    ) -> Generator[str, None, Written]:
        self.asked.append((messages, settings))
        yield "Ottilie"
        yield " Brandt"
        return Written("stop", 77, 2, 0.5, 0.25)


def mode_with(engine: FocusEngine, reader: Reader | None, name: str, **settings: Any) -> Any:
    own = FocusEngine(engine.base, engine.adapter, engine.config, reader=reader)
    return make_mode(name, own, ModeSettings(local_window=512, **settings))


@pytest.mark.parametrize("name", MODES)
class TestEveryMode:
    def test_the_reader_gets_the_passages_in_the_documents_order_and_the_question(
        self, engine: FocusEngine, name: str
    ) -> None:
        reader = Told()
        outcome = mode_with(engine, reader, name).answer(ITEM)
        ((messages, settings),) = reader.asked
        spans = sorted(outcome.passages)
        assert 1 <= len(spans) <= 8
        quoted = [TEXT[start:end] for start, end in spans]
        places = [messages[-1][1].index(passage) for passage in quoted]
        assert places == sorted(places)
        if name != "read":  # whose sources are the sentences of the passages that carry the answer
            assert messages == reading_prompt(QUESTION, quoted)
            assert outcome.passage_tokens == sum(map(reader.count, quoted))
        assert (settings.max_new_tokens, settings.temperature) == (6, 0)
        assert outcome.prediction == "Ottilie Brandt"
        assert 0 < outcome.passage_tokens <= BUDGET
        assert (outcome.prompt_tokens, outcome.new_tokens) == (77, 2)
        assert outcome.first_token_seconds > 0.5
        assert outcome.decode_seconds == pytest.approx(0.25, abs=0.05)

    def test_without_a_reader_the_finding_alone_is_measured(self, engine: FocusEngine, name: str) -> None:
        outcome = mode_with(engine, NoReader(), name).answer(ITEM)
        assert outcome.prediction == ""
        assert outcome.passages
        assert outcome.passage_tokens > 0

    def test_needs_a_reader(self, engine: FocusEngine, name: str) -> None:
        with pytest.raises(ConfigError, match=f"The mode {name} needs a reader; name one with --reader"):
            mode_with(engine, None, name)

    def test_its_configuration_tells_the_reader_and_the_budget(self, engine: FocusEngine, name: str) -> None:
        told = mode_with(engine, Told(), name).facts
        assert (told["reader"], told["budget"]) == ("told", BUDGET)


@pytest.mark.parametrize("name", EVERY_FINDER)
class TestRetrievalMode:
    def test_the_planted_passage_is_first(self, engine: FocusEngine, name: str) -> None:
        outcome = mode_with(engine, Told(), name).answer(ITEM)
        assert first_with(ITEM.places, outcome.passages) == 1

    def test_the_budget_is_kept(self, engine: FocusEngine, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retrieval, "BUDGET", 150)
        assert mode_with(engine, Told(), name).answer(ITEM).passage_tokens <= 150

    def test_number_and_width_of_the_passages_are_settings(self, engine: FocusEngine, name: str) -> None:
        mode = mode_with(engine, Told(), name, passages=2, window=200)
        outcome = mode.answer(replace(ITEM, after="\n\nWhere do captain and lantern meet in winter?"))
        assert len(outcome.passages) == 2
        assert (mode.facts["passages"], mode.facts["window"]) == (2, 200)
        assert mode.facts["finder"]
        with pytest.raises(ConfigError, match="passages is 0"):
            mode_with(engine, Told(), name, passages=0)

    def test_a_document_is_indexed_once(self, engine: FocusEngine, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        indexed: list[str] = []
        finder = FINDERS[name]
        real = finder.index  # type: ignore[attr-defined]

        def counted(self: object, text: str, width: int) -> Any:
            indexed.append(text)
            return real(self, text, width)

        monkeypatch.setattr(finder, "index", counted)
        mode = mode_with(engine, Told(), name)
        mode.answer(ITEM)
        mode.answer(replace(ITEM, after="\n\nWhere is the lantern?"))
        mode.answer(replace(ITEM, context="Another text. It is short."))
        assert indexed == [TEXT, "Another text. It is short."]


def test_words_that_the_document_lacks_give_the_reader_no_passage(engine: FocusEngine) -> None:
    reader = Told()
    outcome = mode_with(engine, reader, "bm25").answer(replace(ITEM, after="\n\nXylophones?"))
    assert list(outcome.passages) == []
    assert outcome.to_dict()["passages"] == []
    assert outcome.prediction == "Ottilie Brandt"


def test_ask_is_the_engines_answer_and_its_sources(engine: FocusEngine) -> None:
    outcome = mode_with(engine, None, "ask").answer(ITEM)
    own = make_mode("ask", engine, ModeSettings(local_window=512)).engine  # type: ignore[attr-defined]
    answer = own.ask(own.read(Document.from_text(TEXT)), QUESTION, max_new_tokens=6, max_sources=8)
    assert outcome.prediction == answer.text
    assert outcome.passages == [(source.start, source.end) for source in answer.sources]
    assert outcome.passage_tokens == answer.usage.quoted_tokens


def test_other_modes_tell_of_no_passages(engine: FocusEngine) -> None:
    assert "passages" not in make_mode("tail", engine, ModeSettings()).answer(ITEM).to_dict()


class TestPlace:
    def test_the_reader_gets_the_paragraph_of_the_answer_alone(self, engine: FocusEngine) -> None:
        text = f"One paragraph.\n\nAnother one, with {ITEM.answers[0]} in it.\n\nA last one."
        at = text.index(ITEM.answers[0])
        reader = Told()
        item = replace(ITEM, context=text, places=((at, at + len(ITEM.answers[0])),))
        outcome = mode_with(engine, reader, "place").answer(item)
        ((messages, _),) = reader.asked
        assert messages == reading_prompt(QUESTION, [text.split("\n\n")[1]])
        assert [text[start:end] for start, end in outcome.passages] == [text.split("\n\n")[1]]

    def test_an_answer_without_a_place_is_told(self, engine: FocusEngine) -> None:
        with pytest.raises(EvaluationError, match="needs the place of the answer"):
            mode_with(engine, Told(), "place").answer(replace(ITEM, places=()))


class Drafted(Told):
    """A reader whose drafter writes something else, and leaves the reader what takes longer than a draft."""

    def __init__(self, finish_reason: str) -> None:
        super().__init__()
        self.drafter = Told()
        self.drafter.write = self.draft  # type: ignore[method-assign]
        self.finish_reason = finish_reason

    def draft(self, messages: Messages, settings: GenerationConfig) -> Generator[str, None, Written]:
        self.limit = settings.max_new_tokens
        yield "Brandt"
        return Written(self.finish_reason, 7, 1, 0.5, 0.25)  # type: ignore[arg-type]


def test_short_answers_are_the_drafters(engine: FocusEngine) -> None:
    reader = Drafted("stop")
    assert mode_with(engine, reader, "bm25").answer(ITEM).prediction == "Brandt"
    assert (reader.asked, reader.limit) == ([], min(ITEM.max_new_tokens, DRAFT_TOKENS))


def test_answers_longer_than_a_draft_are_the_readers(engine: FocusEngine) -> None:
    long = replace(ITEM, max_new_tokens=DRAFT_TOKENS + 1)
    outcome = mode_with(engine, Drafted("length"), "bm25").answer(long)
    assert (outcome.prediction, outcome.prompt_tokens) == ("Ottilie Brandt", 7 + 77)
    assert outcome.first_token_seconds > 0.5 + 0.25 + 0.5  # the draft's too
    short = replace(ITEM, max_new_tokens=DRAFT_TOKENS)
    assert mode_with(engine, Drafted("length"), "bm25").answer(short).prediction == "Brandt"
