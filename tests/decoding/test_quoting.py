"""Quoting: what the candidates looked at joins the local context, behind the same candidates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from focusdoc import Document, FocusConfig, FocusEngine
from focusdoc.attention import attention_kernel
from focusdoc.config import QUOTE_TOKENS
from focusdoc.decoding.parallel import ParallelDecoder
from focusdoc.decoding.quoting import WIDTH, points
from focusdoc.errors import ConfigError
from focusdoc.memory.reading import read_chunks
from focusdoc.modeling.base import BaseModel
from quoted_reference import QuotedReference
from tiny_models import random_weights, tiny_engine, tiny_model

TEXT = "\n".join(f"The colour of house {number} is number {number * 7}." for number in range(60))
LIST, TOLD = (
    TEXT[:900],
    "This is told. ".join(f"House {number} is {'blue' if number % 3 else 'red'}. " for number in range(20)),
)


def some_ids(count: int, seed: int) -> list[int]:
    return torch.randint(3, 96, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


class TestRestarting:
    @pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text"])
    @pytest.mark.parametrize("positions", ["sequential", "shared"])
    @pytest.mark.parametrize("active", ["all", 2])
    @pytest.mark.parametrize("chunk_batch", [None, 2])
    def test_another_local_context_is_as_if_it_had_been_there_from_the_start(
        self, family: str, positions: Any, active: Any, chunk_batch: int | None
    ) -> None:
        base = BaseModel(tiny_model(family))
        weights, kernel = random_weights(base.model), attention_kernel("auto")
        blocks = read_chunks(base, some_ids(16 * 4 + 5, 1), 16, kernel)
        config = FocusConfig(
            chunk_size=16, candidate_positions=positions, active_chunks=active, chunk_batch=chunk_batch
        )

        def decoder() -> ParallelDecoder:
            return ParallelDecoder(base, weights, blocks, kernel=kernel, config=config, max_new_tokens=4)

        prompt = some_ids(6, 2)
        longer = [*some_ids(9, 3), *prompt]
        again, fresh = decoder(), decoder()
        again.start(prompt, prompt)
        mass = again.candidate_mass
        torch.testing.assert_close(again.restart(longer), fresh.start(longer, prompt), atol=2e-5, rtol=1e-4)
        assert torch.equal(again.candidate_mass, mass)  # it tells where the candidates were needed, not the passages
        if active != "all":  # chosen by the attention of the first look, which differs between the two
            fresh.candidate_mass = mass
        for token in (11, 12, 13):
            torch.testing.assert_close(again.step(token), fresh.step(token), atol=2e-5, rtol=1e-4)


class TestPoints:
    def test_what_was_looked_at_most_comes_first(self) -> None:
        first, second = torch.zeros(300), torch.zeros(200)
        first[100], second[50], first[250] = 1.0, 3.0, 2.0
        found = [(chunk, token) for chunk, token in points([7, 2], [first, second])][:3]
        assert [chunk for chunk, _ in found] == [2, 7, 7]
        for (_, token), peak in zip(found, (50, 250, 100), strict=True):
            assert abs(token - peak) < 16

    @given(st.integers(1, 150), st.integers(0, 2**16))
    def test_they_end_and_stay_in_their_chunk(self, length: int, seed: int) -> None:
        found = list(points([3], [torch.rand(length, generator=torch.Generator().manual_seed(seed))]))
        assert len(found) <= length // (WIDTH // 2) + 2
        assert all(chunk == 3 and 0 <= token < length for chunk, token in found)


@pytest.fixture(scope="module")
def engine(tiny_tokenizer: Any) -> FocusEngine:
    return tiny_engine(tiny_tokenizer, FocusConfig(chunk_size=64, local_window=700))


@pytest.fixture(scope="module")
def memory(engine: FocusEngine) -> Any:
    return engine.read(Document.from_text(TEXT))


@pytest.mark.parametrize("positions", ["sequential", "shared"])
@pytest.mark.parametrize("question", ["What colour is house 17?", "Why?"])
@pytest.mark.parametrize("texts", [(LIST,), (TOLD,), (LIST, TOLD)], ids=["a list", "sentences", "two documents"])
def test_answers_are_those_of_the_reference(
    tiny_tokenizer: Any, texts: tuple[str, ...], question: str, positions: Any
) -> None:
    engine = tiny_engine(tiny_tokenizer, FocusConfig(chunk_size=64, local_window=700, candidate_positions=positions))
    memories = [engine.read(Document.from_text(text)) for text in texts]
    reference = QuotedReference(engine, memories)
    expected = reference.answer(question, 5)
    answer = engine.ask(memories, question, max_new_tokens=5, ignore_eos=True)
    assert list(answer.token_ids) == expected
    assert answer.usage.quoted_tokens == reference.quoted_tokens > 0


class TestAnswers:
    def test_passages_are_counted_apart_from_the_prompt(self, engine: FocusEngine, memory: Any) -> None:
        plain = FocusEngine(engine.base, engine.adapter, FocusConfig(chunk_size=64, local_window=700, quote_tokens=0))
        with_passages, without = (each.ask(memory, "What colour?", max_new_tokens=4) for each in (engine, plain))
        assert 0 < with_passages.usage.quoted_tokens <= QUOTE_TOKENS
        assert without.usage.quoted_tokens == 0
        assert with_passages.usage.prompt_tokens == without.usage.prompt_tokens

    def test_sources_are_where_the_first_look_went(self, engine: FocusEngine, memory: Any) -> None:
        """Behind passages the answer's tokens pay little to candidates, and what they pay tells nothing."""
        plain = FocusEngine(engine.base, engine.adapter, FocusConfig(chunk_size=64, local_window=700, quote_tokens=0))
        first = plain.ask(memory, "Which number?", max_new_tokens=1)
        quoted = engine.ask(memory, "Which number?", max_new_tokens=6)
        assert quoted.usage.quoted_tokens > 0
        assert quoted.usage.completion_tokens > 1
        assert quoted.sources == first.sources
        assert quoted.chunk_shares == first.chunk_shares

    def test_they_keep_within_the_local_window(self, engine: FocusEngine, memory: Any) -> None:
        prompt = engine.ask(memory, "What colour?", max_new_tokens=1).usage.prompt_tokens
        for window in (prompt, prompt + 5, prompt + 200):
            narrow = FocusEngine(engine.base, engine.adapter, FocusConfig(chunk_size=64, local_window=window))
            assert narrow.ask(memory, "What colour?", max_new_tokens=1).usage.quoted_tokens <= window - prompt

    def test_together_as_alone(self, engine: FocusEngine, memory: Any) -> None:
        questions = ["What colour?", "Which house is the last of all?", "Why?"]
        together = engine.ask_many(memory, questions, max_new_tokens=6, ignore_eos=True)
        for question, answer in zip(questions, together, strict=True):
            alone = engine.ask(memory, question, max_new_tokens=6, ignore_eos=True)
            assert answer.token_ids == alone.token_ids
            assert answer.usage == alone.usage

    def test_by_the_caller_for_rendered_prompts(self, engine: FocusEngine, memory: Any) -> None:
        encode = engine.base.tokenizer.encode
        given: list[str] = []

        def quoted(text: str) -> list[int]:
            given.append(text)
            return list(encode(f"{text}\nWhy?", add_special_tokens=False))

        asked = list(encode("Why?", add_special_tokens=False))
        *_, last = engine.stream_prompt(memory, asked, quoted=quoted, max_new_tokens=2)
        assert last.answer.usage.quoted_tokens > 0
        assert all(passage in TEXT for passage in given[-1].split("\n\n"))
        *_, last = engine.stream_prompt(memory, asked, max_new_tokens=2)
        assert last.answer.usage.quoted_tokens == 0


def test_only_trained_candidates_quote_by_themselves(engine: FocusEngine) -> None:
    assert engine.config.quote_tokens == QUOTE_TOKENS
    untrained = FocusEngine(engine.base, None, FocusConfig(chunk_size=64, allow_untrained=True))
    paper = FocusEngine(engine.base, engine.adapter, FocusConfig.paper(chunk_size=64))
    assert [each.config.quote_tokens for each in (untrained, paper)] == [0, 0]


@pytest.mark.parametrize("settings", [{"local_attention": "refresh"}, {}])
def test_wrong_settings_are_refused(settings: Any) -> None:
    with pytest.raises(ConfigError, match="quote_tokens is"):
        FocusConfig(quote_tokens=100 if settings else -1, **settings)
