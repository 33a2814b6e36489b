"""Looking again while a long answer goes on: new passages join, and the answer goes on behind its own words."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from focusdoc import Document, FocusConfig, GenerationConfig
from focusdoc.decoding.plain import PlainDecoder, PrefixCache
from focusdoc.modeling.base import BaseModel
from focusdoc.readers import onward
from focusdoc.readers.finding import Found, Places
from focusdoc.readers.local import LocalReader
from focusdoc.readers.onward import MAX_RETRIEVALS, MIN_CHARACTERS, ActiveRetrieval
from focusdoc.readers.passages import Passage
from focusdoc.readers.reader import Messages, drain
from tiny_models import tiny_engine, tiny_model

SPANS = [(0, 0, 100), (0, 200, 300), (0, 400, 500)]
SENTENCE = "x" * MIN_CHARACTERS + ". And"


def found_at(window: int) -> Found:
    places = Places(SPANS, torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), [0])
    scores = torch.zeros(3)
    scores[window] = 20.0
    return Found(places, torch.zeros(3, 3), scores)


def onward_with(windows: list[int], *, fits: Any = lambda passages: True) -> tuple[ActiveRetrieval, list[str]]:
    """It begins with the first window, and finds `windows` one look after another."""
    looked: list[str] = []

    def look(text: str) -> Found:
        looked.append(text)
        return found_at(windows[len(looked) - 1])

    prompt = lambda passages: [("user", str([each.start for each in passages]))]  # noqa: E731
    return ActiveRetrieval("Who?", [Passage(*SPANS[0], 0, 1.0)], look, prompt, fits), looked


def test_what_is_written_is_looked_for_behind_the_question() -> None:
    writing, looked = onward_with([1])
    assert writing.prompt_for(SENTENCE) == [("user", "[0, 200]")]
    assert looked == [f"Who? {SENTENCE}"]


def test_nothing_changes_where_nothing_new_is_found() -> None:
    writing, _ = onward_with([0])
    assert writing.prompt_for(SENTENCE) is None
    assert len(writing.passages) == 1


@pytest.mark.parametrize("written", ["", "Short. And", "x" * 3 * MIN_CHARACTERS])
def test_it_looks_at_ends_of_sentences_that_are_far_enough_apart(written: str) -> None:
    writing, looked = onward_with([])
    assert writing.prompt_for(written) is None
    assert looked == []


def test_looks_are_counted() -> None:
    writing, looked = onward_with([0] * 99)
    for number in range(20):
        writing.prompt_for(SENTENCE * number)
    assert len(looked) == MAX_RETRIEVALS


def test_what_does_not_fit_stays_out() -> None:
    writing, _ = onward_with([1], fits=lambda passages: len(passages) < 2)
    assert writing.prompt_for(SENTENCE) is None
    assert len(writing.passages) == 1


@pytest.fixture(scope="module")
def base(tiny_tokenizer: Any) -> BaseModel:
    model = tiny_model("qwen2", vocab_size=len(tiny_tokenizer), max_position_embeddings=8192)
    return BaseModel(model, tiny_tokenizer, "tiny reader")


def test_the_answer_goes_on_as_behind_the_new_prompt_from_the_start(base: BaseModel) -> None:
    first, second, answer = [5, 6, 7, 8, 9], [5, 6, 7, 1, 2, 3, 9], [11, 12, 13]
    decoder = PlainDecoder(base, PrefixCache(), lambda written: second if len(written) == 2 else None)
    decoder.start(first)
    for token in answer[:2]:
        logits = decoder.step(token)
    torch.testing.assert_close(logits, PlainDecoder(base).start([*second, *answer[:2]]), atol=1e-4, rtol=1e-4)
    logits = decoder.step(answer[2])
    torch.testing.assert_close(logits, PlainDecoder(base).start([*second, *answer]), atol=1e-4, rtol=1e-4)


def test_a_local_reader_asks_for_its_prompt_with_what_it_wrote(base: BaseModel) -> None:
    reader, asked = LocalReader(base), list[str]()

    def again(written: str) -> Messages | None:
        asked.append(written)
        return [("user", "What else is new here?")] if len(asked) == 2 else None

    settings = GenerationConfig(max_new_tokens=5, ignore_eos=True)
    written = drain(reader.write_reprompted([("user", "What?")], settings, None, again))
    assert written.completion_tokens == 5
    assert len(asked) == 4  # after every token but the last
    assert asked == sorted(asked, key=len)


def test_long_answers_are_looked_for_again(
    tiny_tokenizer: Any, base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = tiny_engine(tiny_tokenizer, FocusConfig(chunk_size=64, local_window=512))
    memory = engine.read(Document.from_text("The mill is red. It stands by the river. " * 30))
    looks: list[str] = []
    monkeypatch.setattr(onward.ActiveRetrieval, "prompt_for", lambda self, written: looks.append(written))
    answer = engine.with_reader(LocalReader(base)).ask(memory, "What?", max_new_tokens=40, ignore_eos=True)
    assert len(looks) == 39
    assert answer.usage.completion_tokens == 40
