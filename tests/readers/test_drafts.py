"""Drafts: a reply from each passage alone and one from all, and the best-ranked one is the answer."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from focusdoc import Document, FocusConfig, FocusEngine
from focusdoc.readers import drafts, windows
from focusdoc.readers.drafts import DRAFT_TOKENS
from focusdoc.readers.reader import EXPLAIN_INSTRUCTION, RETRY_INSTRUCTION, Written
from focusdoc.readers.replies import Reply
from scripted_reader import JudgingReader, ScriptedReader
from tiny_models import tiny_engine

HOUSES = [f"The colour of house {number} was painted by its owner in the year {1900 + number}." for number in range(12)]
TEXT = "\n\n".join(HOUSES)
QUESTION = "What about the colour of a house and its owner?"


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WIDTH", 60)


@pytest.fixture(scope="module")
def engine(tiny_tokenizer: Any) -> FocusEngine:
    return tiny_engine(tiny_tokenizer, FocusConfig(chunk_size=64, local_window=256))


def asked_with(engine: FocusEngine, reader: Any, **generation: Any) -> Any:
    memory = engine.read(Document.from_text(TEXT))
    return engine.with_reader(reader).ask(memory, QUESTION, max_sources=9, **generation)


def test_every_passage_is_read_alone_and_behind_the_first_all_together(engine: FocusEngine) -> None:
    reader = JudgingReader({})
    answer = asked_with(engine, reader)
    count = len(answer.sources)
    prompts = [messages[-1][1] for messages in reader.asked]
    assert answer.usage.reader_tokens == 7 * len(prompts)
    together, alone = prompts[1], prompts[:1] + prompts[2 : count + 1]
    assert count > 1
    for source in answer.sources:
        assert sum(source.text in prompt for prompt in alone) == 1
        assert source.text in together


def test_the_draft_that_the_reader_is_surest_of_is_the_answer_and_its_passage_the_first_source(
    engine: FocusEngine,
) -> None:
    # The passage that the finder holds least probable of those that are read.
    # All passages together give the same draft, and tell less about its place.
    least = asked_with(engine, JudgingReader({})).sources[-1]
    answer = asked_with(engine, JudgingReader({least.text: ("a bright blue", 2.0)}))
    assert answer.text == "a bright blue"
    assert (answer.sources[0].start, answer.sources[0].end) == (least.start, least.end)


def test_what_only_all_passages_together_tell_is_the_answer(engine: FocusEngine) -> None:
    quoted = sorted(asked_with(engine, JudgingReader({})).sources, key=lambda source: source.start)
    both = "\n-----\n".join(source.text for source in quoted[:2])
    answer = asked_with(engine, JudgingReader({both: ("a year later", 2.0)}, ("unclear", 0.0)))
    assert answer.text == "a year later"
    assert len(answer.sources) == len(quoted)


@pytest.mark.parametrize(("alone", "together"), [("2", "7"), ("Yes", "No"), ("3 of 4", "3 of 5")])
def test_answers_without_any_indexed_word_are_told_apart(engine: FocusEngine, alone: str, together: str) -> None:
    quoted = sorted(asked_with(engine, JudgingReader({})).sources, key=lambda source: source.start)
    both = "\n-----\n".join(source.text for source in quoted[:2])
    assert asked_with(engine, JudgingReader({both: (together, 2.0)}, (alone, 0.0))).text == together


def test_where_the_reader_is_sure_of_none_the_finder_decides(engine: FocusEngine) -> None:
    first = asked_with(engine, JudgingReader({})).sources[0]
    assert asked_with(engine, JudgingReader({first.text: ("the first", -4.0)})).text == "the first"


def test_an_answer_longer_than_a_draft_is_written_from_all_passages_together(engine: FocusEngine) -> None:
    long = " ".join(["word"] * (DRAFT_TOKENS + 20))
    reader = JudgingReader({}, (long, 1.0))
    answer = asked_with(engine, reader, max_new_tokens=100)
    assert answer.text == long
    assert len(reader.asked) == 2  # the first draft tells that they are too short
    assert reader.kept[0].max_new_tokens == DRAFT_TOKENS
    assert all(source.text in reader.asked[1][-1][1] for source in answer.sources)


def test_an_answer_that_may_be_no_longer_than_a_draft_is_cut_as_a_draft(engine: FocusEngine) -> None:
    reader = JudgingReader({}, (" ".join(["word"] * 50), 1.0))
    answer = asked_with(engine, reader, max_new_tokens=5)
    assert answer.text == "word word word word word"
    assert answer.finish_reason == "length"


def test_a_reader_that_cannot_judge_reads_all_passages_together(engine: FocusEngine) -> None:
    reader = ScriptedReader("blue")
    asked_with(engine, reader)
    assert len(reader.asked) == 1


def test_cancelling_ends_the_drafts(engine: FocusEngine) -> None:
    cancel = threading.Event()
    cancel.set()
    reader = JudgingReader({}, ("one two three", 1.0))
    answer = asked_with(engine, reader, cancel=cancel)
    assert len(reader.asked) == 1
    assert (answer.text, answer.finish_reason) == ("one", "cancelled")


def test_an_answer_in_pieces_is_the_same(engine: FocusEngine) -> None:
    memory = engine.read(Document.from_text(TEXT))
    *pieces, last = engine.with_reader(JudgingReader({}, ("all of it", 1.0))).stream(memory, QUESTION)
    assert ("".join(pieces), last.answer.text) == ("all of it", "all of it")


def test_behind_a_sure_draft_no_other_is_made(engine: FocusEngine) -> None:
    first = asked_with(engine, JudgingReader({})).sources[0]
    reader = JudgingReader({first.text: ("surely this", 30.0)})
    answer = asked_with(engine, reader)
    assert (answer.text, answer.found) == ("surely this", True)
    assert sum("Question: " in messages[-1][1] for messages in reader.asked) == 1


def test_a_draft_that_says_the_question_again_is_asked_for_other_words(engine: FocusEngine) -> None:
    again = ("The colour of the house.", 2.0)
    reader = JudgingReader({RETRY_INSTRUCTION: ("crimson", 0.0)}, again)
    assert asked_with(engine, reader).text == "crimson"
    assert [RETRY_INSTRUCTION in messages[-1][1] for messages in reader.asked[:2]] == [False, True]


def test_where_no_draft_says_more_than_the_question_an_explanation_is_asked_for(engine: FocusEngine) -> None:
    again = ("The colour of the house.", 2.0)
    reader = JudgingReader({EXPLAIN_INSTRUCTION: ("It was painted in a year.", 1.0)}, again)
    answer = asked_with(engine, reader)
    assert answer.text == "It was painted in a year."
    prompt = reader.asked[-1][-1][1]
    assert all(source.text in prompt for source in answer.sources)  # from all passages together
    assert len(answer.sources) > 1


def test_a_choice_may_repeat_the_question(engine: FocusEngine) -> None:
    reader = JudgingReader({EXPLAIN_INSTRUCTION: ("no", 1.0)}, ("The colour", 2.0))
    memory = engine.read(Document.from_text(TEXT))
    assert engine.with_reader(reader).ask(memory, "Is it the colour or the owner?").text == "The colour"


@pytest.mark.parametrize("again", ["The owner of a house", "house", "colour, and its owner!"])
@pytest.mark.parametrize("news", ["blue", "The house is blue.", "0", "No", "?"])
def test_what_tells_something(engine: FocusEngine, again: str, news: str) -> None:
    found = engine.find(engine.read(Document.from_text(TEXT)), QUESTION)
    written = Written("stop", 7, 3, 0.5, 0.25, -1.0)
    replies = [Reply(QUESTION, found, (), text, written, 0.0) for text in (again, news)]
    assert [reply.adds_words for reply in replies] == [False, True]


def test_a_passage_whose_draft_could_not_win_is_not_read(engine: FocusEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafts, "CONFIDENT", 2.0)  # so that no draft ends them
    mill = "The crimson mill by the river was painted by nobody."
    memory = engine.read(Document.from_text("\n\n".join([*HOUSES, mill])))

    def read(agreement: float) -> list[str]:
        """What the reader gets where it agrees with the mill's draft so much."""
        reader = JudgingReader({mill: ("nobody", agreement)})
        engine.with_reader(reader).ask(memory, "painted mill", max_new_tokens=5)
        return [messages[-1][1] for messages in reader.asked]

    assert mill in read(0.0)[0]
    alone, _together = read(2.0)
    assert alone.count("painted by") == 1
    assert len(read(0.0)) > 2


def test_a_draft_that_is_taken_and_cut_off_is_written_to_its_end(engine: FocusEngine) -> None:
    least = asked_with(engine, JudgingReader({})).sources[-1]
    long = " ".join(["word"] * (DRAFT_TOKENS + 20))
    reader = JudgingReader({least.text: (long, 20.0)})
    answer = asked_with(engine, reader, max_new_tokens=100)
    assert (answer.text, answer.finish_reason) == (long, "stop")
    settings = [
        kept.max_new_tokens for kept, asked in zip(reader.kept, reader.asked, strict=True) if least.text in asked[-1][1]
    ]
    assert settings == [DRAFT_TOKENS, 100]  # together, and to its end
