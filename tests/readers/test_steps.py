"""Two steps: whom a question describes is looked for first, and named in the question that is looked for then."""

from __future__ import annotations

from typing import Any

import pytest

from focusdoc import Document, FocusConfig, FocusEngine
from focusdoc.readers import windows
from scripted_reader import JudgingReader, ScriptedReader
from tiny_models import tiny_engine

OTHERS = " ".join(f"House {number} by the river has a red door and a garden." for number in range(40))
OWNER = "The mill by the river is owned by Frank Launder."
BORN = "Launder, Frank: seen first on 28 January 1906 in Hitchin."
TEXT = f"{OWNER}\n\n{OTHERS}\n\n{BORN}"
QUESTION = "When was the owner of the mill born?"
DESCRIBES = {QUESTION: ("the owner of the mill", 0.0)}
UNSURE, SURE = {f"Question: {QUESTION}": ("1932", -6.0)}, {f"Question: {QUESTION}": ("1932", 30.0)}
NAMES = {"Who or what is the owner of the mill?": ("Frank Launder.", 6.0)}
TELLS = {"When was Frank Launder born?": ("28 January 1906", 9.0)}


@pytest.fixture(scope="module")
def engine(tiny_tokenizer: Any) -> FocusEngine:
    return tiny_engine(tiny_tokenizer, FocusConfig(chunk_size=64, local_window=256))


@pytest.fixture
def memory(engine: FocusEngine, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(windows, "WIDTH", 60)
    return engine.read(Document.from_text(TEXT))


def asked_by(reader: JudgingReader, question: str) -> list[str]:
    return [messages[-1][1] for messages in reader.asked if f"Question: {question}" in messages[-1][1]]


def test_who_is_described_is_named_in_the_next_question(engine: FocusEngine, memory: Any) -> None:
    reader = JudgingReader(NAMES | UNSURE | DESCRIBES | {BORN: ("28 January 1906", 9.0)})
    answer = engine.with_reader(reader).ask(memory, QUESTION, max_sources=9)
    assert answer.text == "28 January 1906"
    assert answer.steps == (("Who or what is the owner of the mill?", "Frank Launder."),)
    # The next question was looked for: the reader got what the words "Frank Launder" are in.
    assert any(BORN in prompt for prompt in asked_by(reader, "When was Frank Launder born?"))
    assert {source.text for source in answer.sources[:4]} >= {BORN}


def test_a_sure_answer_needs_no_second_look(engine: FocusEngine, memory: Any) -> None:
    reader = JudgingReader(NAMES | TELLS | SURE | DESCRIBES)
    answer = engine.with_reader(reader).ask(memory, QUESTION)
    assert (answer.text, answer.steps) == ("1932", ())
    assert not asked_by(reader, "When was Frank Launder born?")


@pytest.mark.parametrize("certainty", [-6.0, 30.0])
@pytest.mark.parametrize("name", ["Frank Launder", "Launder.", "The owner of the mill is Frank Launder."])
def test_the_name_alone_is_no_answer(engine: FocusEngine, memory: Any, name: str, certainty: float) -> None:
    told = {"When was Frank Launder born?": ("28 January 1906", -9.0)}
    reader = JudgingReader(NAMES | told | {f"Question: {QUESTION}": (name, certainty)} | DESCRIBES)
    answer = engine.with_reader(reader).ask(memory, QUESTION)
    assert (answer.text, answer.steps) == (
        "28 January 1906",
        (("Who or what is the owner of the mill?", "Frank Launder."),),
    )


def test_a_question_for_a_name_is_answered_by_it(engine: FocusEngine, memory: Any) -> None:
    question = "Which person whom the owner of the mill knows was born?"
    told = {"Which person whom Frank Launder knows was born?": ("28 January 1906", -9.0)}
    reader = JudgingReader(
        NAMES | told | {f"Question: {question}": ("Frank Launder", -6.0), question: ("the owner of the mill", 0)}
    )
    assert engine.with_reader(reader).ask(memory, question).text == "Frank Launder"


def test_the_name_stays_where_the_second_reply_only_repeats_it(engine: FocusEngine, memory: Any) -> None:
    reader = JudgingReader(
        NAMES
        | {"When was Frank Launder born?": ("Frank Launder", -9.0), f"Question: {QUESTION}": ("Frank Launder", 30.0)}
        | DESCRIBES
    )
    assert engine.with_reader(reader).ask(memory, QUESTION).steps == ()


def test_a_sure_answer_that_is_another_name_stays(engine: FocusEngine, memory: Any) -> None:
    question = "Where was the owner of the mill born?"
    reader = JudgingReader(NAMES | {f"Question: {question}": ("Hitchin", 30.0), question: ("the owner of the mill", 0)})
    answer = engine.with_reader(reader).ask(memory, question)
    assert (answer.text, answer.steps) == ("Hitchin", ())
    assert not asked_by(reader, "Where was Frank Launder born?")


def test_the_first_answer_stays_where_the_second_is_no_surer(engine: FocusEngine, memory: Any) -> None:
    reader = JudgingReader(NAMES | {"When was Frank Launder born?": ("nobody knows", -9.0)} | UNSURE | DESCRIBES)
    answer = engine.with_reader(reader).ask(memory, QUESTION)
    assert (answer.text, answer.steps) == ("1932", ())


@pytest.mark.parametrize(
    ("question", "description"),
    [
        ("When was Frank Launder born?", "Frank Launder"),  # a name describes nobody
        ("Who is the owner of the mill?", "the owner of the mill"),  # all that is asked
        ("When was the owner of the mill born?", "the owner of the house"),  # not in the question
        ("When was the owner of the mill born?", ""),
        ("When is a refund of a few cents due?", "a refund of a few cents"),  # nothing that has a name
    ],
)
def test_other_questions_are_asked_once(engine: FocusEngine, memory: Any, question: str, description: str) -> None:
    reader = JudgingReader({f"Question: {question}": ("1932", -6.0), question: (description, 0.0)})
    answer = engine.with_reader(reader).ask(memory, question)
    assert (answer.text, answer.steps) == ("1932", ())
    assert not asked_by(reader, "Who or what")


def test_a_question_without_a_relation_is_not_even_searched_for_a_description(engine: FocusEngine, memory: Any) -> None:
    reader = JudgingReader({}, ("1932", -6.0))
    engine.with_reader(reader).ask(memory, "Which house has a red door?")
    assert all("Question: " in messages[-1][1] for messages in reader.asked)


@pytest.mark.parametrize("name", ["", "the owner", "x" * 200])
def test_what_names_nobody_leads_nowhere(engine: FocusEngine, memory: Any, name: str) -> None:
    reader = JudgingReader({"Who or what is the owner of the mill?": (name, 6.0)} | UNSURE | DESCRIBES)
    assert engine.with_reader(reader).ask(memory, QUESTION).steps == ()


def test_a_reader_that_cannot_judge_is_asked_once(engine: FocusEngine, memory: Any) -> None:
    reader = ScriptedReader("1932")
    assert engine.with_reader(reader).ask(memory, QUESTION).steps == ()
    assert len(reader.asked) == 1


def test_letters_that_folding_makes_longer_move_nothing(engine: FocusEngine, memory: Any) -> None:
    question = "When in Weißenfels was the owner of the mill born?"
    reader = JudgingReader(
        {f"Question: {question}": ("1932", -6.0)} | NAMES | {question: ("the OWNER of the mill", 0.0)}
    )
    answer = engine.with_reader(reader).ask(memory, question)
    assert [step[0] for step in answer.steps] in ([], ["Who or what is the owner of the mill?"])
    assert asked_by(reader, "Who or what is the owner of the mill?")


def test_a_passage_of_both_looks_is_one_source(engine: FocusEngine, memory: Any) -> None:
    reader = JudgingReader(NAMES | UNSURE | DESCRIBES | {BORN: ("28 January 1906", 9.0)})
    answer = engine.with_reader(reader).ask(memory, QUESTION, max_sources=9)
    spans = [(source.start, source.end) for source in answer.sources]
    assert len(spans) == len(set(spans))
