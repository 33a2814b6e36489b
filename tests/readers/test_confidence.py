"""Confidence: whether the documents tell what was asked, by the finder and by a reader that can judge."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Any

import pytest

from focusdoc import Document, FocusConfig, FocusEngine
from focusdoc.config import GenerationConfig
from focusdoc.modeling.base import BaseModel
from focusdoc.readers.confidence import confidence_of, rank_score_of, signals
from focusdoc.readers.local import LocalReader
from focusdoc.readers.reader import Messages, Written, judging_prompt, reading_prompt
from scripted_reader import ScriptedReader
from tiny_models import tiny_engine, tiny_model


class JudgingReader(ScriptedReader):
    """Says what it is told to say, how likely, and whether it agrees with it."""

    def __init__(self, likelihood: float, agreement: float) -> None:
        super().__init__("blue")
        self.likelihood, self.agreement = likelihood, agreement
        self.judged: list[Messages] = []

    def write(
        self, messages: Messages, settings: GenerationConfig, cancel: threading.Event | None = None
    ) -> Generator[str, None, Written]:
        yield from super().write(messages, settings, cancel)
        return Written("stop", 77, 1, 0.5, 0.25, self.likelihood)

    def yes_log_odds(self, messages: Messages) -> float:
        self.judged.append(messages)
        return self.agreement


BASE = {"look_peak": 0.1, "words": 1.0, "covered": 0.5, "likelihood": -2.0, "agreement": 0.5}


@pytest.mark.parametrize("better", [{"look_peak": 0.4}, {"words": 2.0}, {"likelihood": -0.5}, {"agreement": 2.0}])
def test_each_signal_makes_it_surer(better: dict[str, float]) -> None:
    assert 0 < confidence_of(signals(**BASE)) < confidence_of(signals(**BASE | better)) < 1


@pytest.mark.parametrize("better", [{"covered": 0.9}, {"likelihood": -0.5}, {"agreement": 2.0}])
def test_each_signal_of_its_own_makes_a_reply_more_promising(better: dict[str, float]) -> None:
    assert rank_score_of(signals(**BASE)) < rank_score_of(signals(**BASE | better))
    assert rank_score_of(signals(**BASE, adds_words=False)) < rank_score_of(signals(**BASE))


def test_a_long_reply_is_not_doubted_for_its_length_alone() -> None:
    """Four times as many tokens, each as likely, count twice, not four times."""
    short, long = Written("stop", 7, 3, 0.5, 0.25, -1.0), Written("stop", 7, 15, 0.5, 0.25, -4.0)
    assert (short.likelihood, long.likelihood) == (-0.5, -1.0)
    assert Written("stop", 7, 3, 0.5, 0.25).likelihood is None


def test_what_a_reader_does_not_tell_counts_as_the_middle() -> None:
    told = confidence_of(signals(0.1, 1.0, 0.5, -8.0, -3.0))
    untold = confidence_of(signals(0.1, 1.0, 0.5, None, None))
    assert told < untold < 1


def test_long_answers_and_empty_looks_stay_finite() -> None:
    assert 0 <= confidence_of(signals(0.0, 0.0, 0.0, -1e9, -50.0)) < 0.01


@pytest.fixture(scope="module")
def engine(tiny_tokenizer: Any) -> FocusEngine:
    return tiny_engine(tiny_tokenizer, FocusConfig(chunk_size=64, local_window=256))


@pytest.fixture(scope="module")
def memory(engine: FocusEngine) -> Any:
    return engine.read(Document.from_text("The house is blue. " * 30))


class TestAnswers:
    def test_say_that_the_document_does_not_tell(self, engine: FocusEngine, memory: Any) -> None:
        sure, unsure = JudgingReader(0.0, 20.0), JudgingReader(-15.0, -20.0)
        answers = [engine.with_reader(one).ask(memory, "What colour is it?") for one in (sure, unsure)]
        assert [answer.found for answer in answers] == [True, False]
        assert answers[0].confidence > 0.5 > answers[1].confidence  # type: ignore[operator]
        assert answers[1].text == "blue"  # the best guess all the same
        (messages,) = sure.judged
        assert "Proposed answer: blue\n" in messages[-1][1]

    def test_nobody_judges_a_cancelled_answer(self, engine: FocusEngine, memory: Any) -> None:
        class Stopped(JudgingReader):
            def write(self, *given: Any) -> Generator[str, None, Written]:
                yield "bl"
                return Written("cancelled", 77, 1, 0.5, 0.25)

        reader = Stopped(0.0, 1.0)
        answer = engine.with_reader(reader).ask(memory, "What colour is it?")
        assert reader.judged == []
        assert answer.finish_reason == "cancelled"

    def test_without_a_reader_nobody_knows(self, engine: FocusEngine, memory: Any) -> None:
        answer = engine.ask(memory, "What colour is it?", max_new_tokens=2)
        assert (answer.found, answer.confidence) == (None, None)

    def test_a_local_reader_judges_by_its_next_token(self, tiny_tokenizer: Any) -> None:
        model = tiny_model("qwen2", vocab_size=len(tiny_tokenizer), max_position_embeddings=8192)
        reader = LocalReader(BaseModel(model, tiny_tokenizer, "tiny reader"))
        passages = ["The house is blue.", "The mill is red."]
        *_, end = list(self.pieces(reader, reading_prompt("What colour?", passages)))
        assert end.log_likelihood is not None
        assert end.log_likelihood < 0
        odds = reader.yes_log_odds(judging_prompt("What colour?", passages, "blue"))
        fresh = LocalReader(reader.base).yes_log_odds(judging_prompt("What colour?", passages, "blue"))
        assert odds == pytest.approx(fresh, abs=1e-4)  # whatever it had read before
        assert odds != pytest.approx(reader.yes_log_odds(judging_prompt("What colour?", passages, "red")), abs=1e-6)

    def pieces(self, reader: LocalReader, messages: Messages) -> Generator[Any, None, None]:
        end = yield from reader.write(messages, GenerationConfig(max_new_tokens=3))
        yield end


def test_the_judging_prompt_begins_as_the_reading_prompt() -> None:
    passages = ["One.", "-----", "Two."]
    asked, judged = reading_prompt("Who?", passages), judging_prompt("Who?", passages, "Me")
    assert judged[0] == asked[0]
    assert judged[1][1].startswith(asked[1][1].split("Answer with")[0])
