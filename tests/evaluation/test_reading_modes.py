"""Modes with a reader: each finder's passages in the document's order, one prompt and one budget for all."""

from __future__ import annotations

import threading
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import pytest
from test_retrieval import EVERY_FINDER, PLANTED, TEXT

from focusdoc import Document, FocusEngine
from focusdoc.config import GenerationConfig
from focusdoc.errors import ConfigError, EvaluationError
from focusdoc.evaluation import reading_modes
from focusdoc.evaluation.item import Item, ModeSettings
from focusdoc.evaluation.modes import make_mode
from focusdoc.evaluation.reading_modes import NoReader
from focusdoc.evaluation.retrieval import first_with
from focusdoc.readers import Reader
from focusdoc.readers.drafts import DRAFT_TOKENS
from focusdoc.readers.reader import Messages, Written, reading_prompt
from focusdoc.readers.reading import BUDGET

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
        told = mode_with(engine, Told(), name).describe()
        assert (told["reader"], told["budget"]) == ("told", BUDGET)


@pytest.mark.parametrize("name", EVERY_FINDER)
class TestRetrieval:
    def test_the_planted_passage_is_first(self, engine: FocusEngine, name: str) -> None:
        outcome = mode_with(engine, Told(), name).answer(ITEM)
        assert first_with(ITEM.places, outcome.passages) == 1

    def test_the_budget_is_kept(self, engine: FocusEngine, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reading_modes, "BUDGET", 150)
        assert mode_with(engine, Told(), name).answer(ITEM).passage_tokens <= 150

    def test_number_and_width_of_the_passages_are_settings(self, engine: FocusEngine, name: str) -> None:
        mode = mode_with(engine, Told(), name, passages=2, window=200)
        outcome = mode.answer(replace(ITEM, after="\n\nWhere do captain and lantern meet in winter?"))
        assert len(outcome.passages) == 2
        assert (mode.describe()["passages"], mode.describe()["window"]) == (2, 200)
        assert mode.describe()["finder"]
        with pytest.raises(ConfigError, match="passages is 0"):
            mode_with(engine, Told(), name, passages=0)

    def test_a_document_is_indexed_once(self, engine: FocusEngine, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        cut: list[str] = []
        real = reading_modes.cut

        def counted(text: str, width: int) -> Any:
            cut.append(text)
            return real(text, width)

        monkeypatch.setattr(reading_modes, "cut", counted)
        mode = mode_with(engine, Told(), name)
        mode.answer(ITEM)
        mode.answer(replace(ITEM, after="\n\nWhere is the lantern?"))
        mode.answer(replace(ITEM, context="Another text. It is short."))
        assert cut == [TEXT, "Another text. It is short."]


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
