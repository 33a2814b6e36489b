"""Questions about the whole document: passages of all its chunks, read together."""

from __future__ import annotations

from typing import Any

import pytest

from focusdoc import Document, FocusConfig, FocusEngine
from focusdoc.errors import PromptTooLongError
from focusdoc.readers import overview, windows
from focusdoc.readers.overview import OVERVIEW_INSTRUCTION, asks_for_overview
from focusdoc.readers.reader import ANSWER_INSTRUCTION
from scripted_reader import JudgingReader, ScriptedReader
from tiny_models import tiny_engine

TEXT = " ".join(
    f"In the year {1800 + number} the mill by the river was owned by family {number}." for number in range(60)
)
WHOLE = "Summarize the text."


@pytest.fixture(scope="module")
def engine(tiny_tokenizer: Any) -> FocusEngine:
    return tiny_engine(tiny_tokenizer, FocusConfig(chunk_size=128, local_window=256))


@pytest.fixture
def memory(engine: FocusEngine, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(windows, "WIDTH", 80)
    return engine.read(Document.from_text(TEXT))


def chunks_of(memory: Any, prompt: str) -> set[int]:
    """The chunks whose text the quoted passages have a part of."""
    quoted = [line.strip() for line in prompt.split("-----") if "mill" in line]
    spans = [(TEXT.index(line), TEXT.index(line) + len(line)) for line in quoted]
    return {
        chunk.index
        for chunk in memory.chunks
        if any(start < chunk.char_end and chunk.char_start < end for start, end in spans)
    }


@pytest.mark.parametrize(
    "question",
    [
        "Summarise this.",
        "What is this book about?",
        "Give me an overview of the report",
        "What are the main themes?",
        "tl;dr",
        "How does Emma change in the course of the novel?",
        "Which topics are covered?",
    ],
)
def test_english_words_tell_that_all_of_it_is_asked_about(question: str) -> None:
    assert asks_for_overview(question)


@pytest.mark.parametrize(
    "question",
    ["Who is the main character's wife?", "What was the weather about noon?", "In which year was the mill sold?"],
)
def test_other_questions_have_a_place(question: str) -> None:
    assert not asks_for_overview(question)


def test_passages_of_every_chunk_are_read_together(engine: FocusEngine, memory: Any) -> None:
    reader = JudgingReader({}, ("a mill and its families", 1.0))
    answer = engine.with_reader(reader).ask(memory, WHOLE)
    assert answer.text == "a mill and its families"
    (messages,) = reader.asked
    assert chunks_of(memory, messages[-1][1]) == set(range(memory.num_chunks))
    assert OVERVIEW_INSTRUCTION in messages[-1][1]
    assert ANSWER_INSTRUCTION not in messages[-1][1]
    assert (answer.found, answer.confidence) == (None, None)  # no place tells it


def test_a_short_document_is_read_as_a_whole(engine: FocusEngine, memory: Any) -> None:
    reader = ScriptedReader("x")
    engine.with_reader(reader).ask(memory, WHOLE)
    assert TEXT in reader.asked[0][-1][1]


def test_every_chunk_has_its_share_of_a_small_budget(
    engine: FocusEngine, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = 45 * memory.num_chunks
    monkeypatch.setattr(overview.Overview, "budget", budget)
    reader = ScriptedReader("x")
    answer = engine.with_reader(reader).ask(memory, WHOLE)
    assert answer.usage.quoted_tokens <= budget
    assert chunks_of(memory, reader.asked[0][-1][1]) == set(range(memory.num_chunks))


def test_what_the_caller_says_goes_before_the_words(engine: FocusEngine, memory: Any) -> None:
    reader = ScriptedReader("x")
    asking = engine.with_reader(reader)
    asking.ask(memory, WHOLE, overview=False)
    asking.ask(memory, "Who owned the mill in 1807?", overview=True)
    assert [OVERVIEW_INSTRUCTION in messages[-1][1] for messages in reader.asked] == [False, True]


def test_many_questions_each_go_their_way(engine: FocusEngine, memory: Any) -> None:
    reader = ScriptedReader("x")
    engine.with_reader(reader).ask_many(memory, [WHOLE, "Who owned the mill in 1807?", WHOLE])
    assert [OVERVIEW_INSTRUCTION in messages[-1][1] for messages in reader.asked] == [True, False, True]


def test_a_window_without_room_for_a_passage_is_told_before(engine: FocusEngine, memory: Any) -> None:
    with pytest.raises(PromptTooLongError):
        engine.with_reader(ScriptedReader("x", window=30)).stream(memory, WHOLE)
