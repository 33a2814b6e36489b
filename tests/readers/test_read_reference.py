"""With a reader, question by question, against slow references: naive scores, and transformers' own generation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from finding_reference import scores
from focusdoc import Document, FocusConfig, FocusEngine
from focusdoc.decoding.prompt import encode_messages
from focusdoc.errors import PromptTooLongError
from focusdoc.memory.chunk_memory import DocumentMemory
from focusdoc.modeling.base import BaseModel
from focusdoc.readers.drafts import DRAFT_TOKENS
from focusdoc.readers.finding import Finder
from focusdoc.readers.local import LocalReader
from focusdoc.readers.passages import choose_passages, in_order, text_of
from focusdoc.readers.reader import Messages, reading_prompt
from focusdoc.readers.reading import BUDGET
from scripted_reader import ScriptedReader
from tiny_models import random_adapter, random_finding, tiny_engine, tiny_model

TEXTS = (
    " ".join(f"The colour of house {number} is painted blue by its owner." for number in range(20)),
    " ".join(f"In the year {number} the cuckoo came back late." for number in range(1700, 1712)),
)
QUESTIONS = ["What colour is house 17?", "When was the cuckoo late?"]


@pytest.fixture(scope="module", params=[(), ((0, 1), (1, 2)), None], ids=["without heads", "with heads", "trained"])
def heads(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def engine(tiny_tokenizer: Any, heads: Any) -> FocusEngine:
    config = FocusConfig(chunk_size=64, local_window=256, candidate_positions="sequential")
    engine = tiny_engine(tiny_tokenizer, config)
    if heads is None:
        adapter = replace(random_adapter(engine.base.model), finding=random_finding(engine.base.model))
        engine = FocusEngine(engine.base, adapter, config)
    engine.finder = Finder(engine.finder.way, heads or ())
    return engine


@pytest.fixture(scope="module", params=[1, 2], ids=["one document", "two documents"])
def memories(engine: FocusEngine, request: pytest.FixtureRequest) -> list[DocumentMemory]:
    return [engine.read(Document.from_text(text)) for text in TEXTS[: request.param]]


@pytest.fixture(scope="module")
def reader(tiny_tokenizer: Any) -> LocalReader:
    model = tiny_model("qwen2", vocab_size=len(tiny_tokenizer), max_position_embeddings=8192)
    return LocalReader(BaseModel(model, tiny_tokenizer, "tiny reader"))


def generated(reader: LocalReader, messages: Messages, count: int) -> str:
    """What transformers' own greedy decoding writes."""
    base = reader.base
    ids = torch.tensor([encode_messages(base.tokenizer, messages)])
    output = base.model.generate(ids, max_new_tokens=count, do_sample=False, eos_token_id=list(base.eos_token_ids))
    text: str = base.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
    return text


@pytest.mark.parametrize("question", QUESTIONS)
def test_windows_are_scored_as_the_formulas_say(
    engine: FocusEngine, memories: list[DocumentMemory], heads: Any, question: str
) -> None:
    found = engine.find(memories, question)
    torch.testing.assert_close(found.scores, scores(engine, memories, question, heads), atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_answer_is_generated_from_the_passages_of_the_best_windows(
    engine: FocusEngine, memories: list[DocumentMemory], heads: Any, reader: LocalReader, question: str
) -> None:
    count = DRAFT_TOKENS + 8  # too long for a draft of one passage
    answer = engine.with_reader(reader).ask(memories, question, max_new_tokens=count)
    found = engine.find(memories, question)
    naive = type(found)(found.places, found.signals, scores(engine, memories, question, heads))
    passages = choose_passages(
        naive, lambda some: sum(reader.count(text_of(memories, each)) for each in some) <= BUDGET
    )
    texts = [text_of(memories, each) for each in in_order(passages)]
    assert answer.text == generated(reader, reading_prompt(question, texts), count)


def test_of_many_questions_none_is_answered_where_one_does_not_fit(
    engine: FocusEngine, memories: list[DocumentMemory]
) -> None:
    told = ScriptedReader("x", window=140)
    with pytest.raises(PromptTooLongError, match="exceed the 140 tokens of told"):
        engine.with_reader(told).ask_many(memories, ["Who?", "Is it " + "a " * 60], max_new_tokens=20)
    assert not told.asked


def test_without_documents_the_reader_generates_from_the_conversation(engine: FocusEngine, reader: LocalReader) -> None:
    said = [("system", "Be brief."), ("user", "Who?"), ("assistant", "I."), ("user", "And who else?")]
    ids = encode_messages(engine.base.tokenizer, said)
    *_, last = engine.with_reader(reader).stream_prompt(None, ids, said=said, max_new_tokens=8)
    assert last.answer.text == generated(reader, said, 8)


def test_without_documents_and_reader_the_base_model_generates(engine: FocusEngine) -> None:
    said = [("user", "Who?")]
    *_, last = engine.stream_prompt(None, encode_messages(engine.base.tokenizer, said), said=said, max_new_tokens=8)
    assert last.answer.text == generated(LocalReader(engine.base), said, 8)
