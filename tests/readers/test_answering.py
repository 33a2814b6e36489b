"""Find and read: passages of the candidates, in the document's order, answered from by a reader."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from focusdoc import Document, FocusConfig, FocusEngine
from focusdoc.errors import ConfigError, PromptTooLongError, ReaderError
from focusdoc.modeling.base import BaseModel
from focusdoc.readers import Reader, open_reader
from focusdoc.readers.local import LocalReader
from tiny_models import tiny_engine, tiny_model
from told_reader import Told

TEXT = "\f".join(f"Page {number}. The colour of house {number} is blue. " * 3 for number in range(1, 30))


@pytest.fixture(scope="module")
def plain(tiny_tokenizer: Any) -> FocusEngine:
    return tiny_engine(tiny_tokenizer, FocusConfig(chunk_size=64, local_window=256))


def engine_with(plain: FocusEngine, reader: Reader) -> FocusEngine:
    return FocusEngine(plain.base, plain.adapter, plain.config, reader=reader)


@pytest.fixture(scope="module")
def memory(plain: FocusEngine) -> Any:
    return plain.read(Document.from_text(TEXT))


def test_the_reader_gets_passages_of_the_document_in_its_order_and_the_question(
    plain: FocusEngine, memory: Any
) -> None:
    reader = Told("blue")
    answer = engine_with(plain, reader).ask(memory, "What colour?", max_sources=9)
    ((system, (role, content)),) = reader.asked
    assert system[0] == "system"
    assert "not follow instructions" in system[1]
    assert role == "user"
    assert content.endswith("Question: What colour?")
    places = [content.index(source.text) for source in sorted(answer.sources, key=lambda source: source.start)]
    assert places == sorted(places)
    assert all(TEXT[source.start : source.end] == source.text for source in answer.sources)


def test_the_answer_is_what_the_reader_wrote(plain: FocusEngine, memory: Any) -> None:
    engine = engine_with(plain, Told("The ", "house", "."))
    pieces = list(engine.stream(memory, "What colour?"))
    answer = pieces[-1].answer
    assert answer is not None
    assert pieces == ["The ", "house", ".", ""]
    assert answer.text == "The house."
    assert (answer.usage.reader_tokens, answer.usage.completion_tokens) == (77, 3)
    assert answer.timings.first_token >= 0.5
    assert sum(answer.chunk_shares) == pytest.approx(1, abs=1e-4)
    assert [source.score for source in answer.sources] == sorted((s.score for s in answer.sources), reverse=True)


def test_passages_keep_within_the_budget_and_never_overlap(
    plain: FocusEngine, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from focusdoc.readers import answering, passages

    monkeypatch.setattr(passages, "HALF_WIDTH", 60)
    for budget in (1, 40, 120):
        monkeypatch.setattr(answering.stream_read_answer, "__kwdefaults__", {"budget": budget})
        reader = Told("x")
        answer = engine_with(plain, reader).ask(memory, "Which house?", max_sources=99)
        taken = sum(reader.count(source.text) for source in answer.sources)
        assert taken <= budget or len(answer.sources) == 1
        ordered = sorted(answer.sources, key=lambda source: source.start)
        assert all(one.end < other.start for one, other in itertools.pairwise(ordered))


def test_several_documents_and_many_questions(plain: FocusEngine, memory: Any) -> None:
    other = plain.read(Document.from_text("Another text. " * 40, {"name": "other"}))
    engine = engine_with(plain, Told("blue"))
    answers = engine.ask_many([memory, other], ["What colour?", "Which house?"], max_sources=9)
    assert [answer.text for answer in answers] == ["blue", "blue"]
    assert {source.document for answer in answers for source in answer.sources} <= {"text", "other"}


def test_where_the_reader_fails_the_sources_are_given_all_the_same(plain: FocusEngine, memory: Any) -> None:
    with pytest.raises(ReaderError, match="broke off") as failed:
        engine_with(plain, Told("The ", "house", fails_after=1)).ask(memory, "What colour?")
    assert failed.value.sources
    assert all(source.text in TEXT for source in failed.value.sources)


def test_a_memory_of_bare_token_ids_has_no_words_to_read(plain: FocusEngine, memory: Any) -> None:
    from dataclasses import replace

    with pytest.raises(ConfigError, match="needs the words of a document"):
        engine_with(plain, Told("x")).ask(replace(memory, document=None, tokenized=None), "What?")


class TestLocalReader:
    @pytest.fixture
    def base(self, tiny_tokenizer: Any) -> BaseModel:
        model = tiny_model("qwen2", vocab_size=len(tiny_tokenizer), max_position_embeddings=8192)
        return BaseModel(model, tiny_tokenizer, "tiny reader")

    def test_writes_what_the_model_says(self, plain: FocusEngine, memory: Any, base: BaseModel) -> None:
        reader = open_reader(base)
        assert isinstance(reader, LocalReader)
        answer = engine_with(plain, reader).ask(memory, "What colour?", max_new_tokens=7, ignore_eos=True)
        assert answer.usage.completion_tokens == 7
        assert answer.usage.reader_tokens > 100
        assert answer.finish_reason == "length"
        again = engine_with(plain, reader).ask(memory, "What colour?", max_new_tokens=7, ignore_eos=True)
        assert again.text == answer.text

    def test_counts_its_own_tokens(self, base: BaseModel) -> None:
        assert LocalReader(base).count("abc def") == 7  # the tokenizer has a token for each byte

    def test_refuses_what_does_not_fit(self, plain: FocusEngine, memory: Any, base: BaseModel) -> None:
        reader = LocalReader(base)
        reader.window = 300
        with pytest.raises(PromptTooLongError, match="exceed the 300 tokens of tiny reader"):
            engine_with(plain, reader).ask(memory, "What colour?", max_new_tokens=7)

    def test_one_without_a_chat_template_is_refused(self, base: BaseModel) -> None:
        base.tokenizer.chat_template = None
        with pytest.raises(ConfigError, match="tiny reader has no chat template"):
            open_reader(base)


def test_what_names_a_reader() -> None:
    told = Told()
    assert open_reader(None) is None
    assert open_reader(told) is told
    assert open_reader("http://localhost:1/v1", reader_model="m").name == "m"  # type: ignore[union-attr]
