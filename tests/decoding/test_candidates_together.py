"""Several questions in the same sweeps: the answers of asking them one by one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from focusdoc import Document, DocumentMemory, FocusConfig, FocusEngine
from focusdoc.attention import attention_kernel
from focusdoc.decoding.candidates import start_batch, step_batch
from focusdoc.decoding.parallel import ParallelDecoder, RefreshedDecoder
from focusdoc.decoding.together import run_together
from focusdoc.errors import ConfigError, PromptTooLongError
from focusdoc.memory.reading import read_chunks
from focusdoc.modeling.adapter import Adapter, untrained_adapter
from focusdoc.modeling.base import BaseModel
from tiny_models import random_weights, tiny_model

QUESTIONS = ["What?", "Who went to the sea, and when did he come back?", "Why not?"]
TEXT = "one two three four five six seven eight nine ten. " * 12


def some_ids(count: int, seed: int) -> list[int]:
    return torch.randint(3, 96, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize(
    ("family", "window"),
    [("llama", None), ("qwen2", None), ("qwen3", None), ("gemma3_text", None), ("gemma3_text", 12)],
)
@pytest.mark.parametrize("kind", [ParallelDecoder, RefreshedDecoder])
@pytest.mark.parametrize("chunk_batch", [None, 1, 2])
def test_logits_are_those_of_each_alone(
    family: str, kind: type[ParallelDecoder], chunk_batch: int | None, window: int | None
) -> None:
    base = BaseModel(tiny_model(family, **({"sliding_window": window} if window else {})))
    weights, kernel = random_weights(base.model), attention_kernel("auto")
    blocks = (*read_chunks(base, some_ids(53, 1), 16, kernel), *read_chunks(base, some_ids(30, 2), 16, kernel))
    config = FocusConfig(
        chunk_size=16,
        candidate_positions="sequential",
        chunk_batch=chunk_batch,
        prompt_bos=False,
    )

    def fresh() -> ParallelDecoder:
        return kind(base, weights, blocks, kernel=kernel, config=config, max_new_tokens=4)

    questions = [(ids, ids[-5:]) for ids in (some_ids(9, 3), some_ids(4, 4), some_ids(17, 5))]
    alone, together = [fresh() for _ in questions], [fresh() for _ in questions]
    expected = [decoder.start(*question) for decoder, question in zip(alone, questions, strict=True)]
    found = start_batch(together, questions)
    for step in range(3):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
        for one_decoder, other_decoder in zip(together, alone, strict=True):
            torch.testing.assert_close(one_decoder.candidate_mass, other_decoder.candidate_mass, atol=1e-5, rtol=1e-4)
        if step == 1:  # one question ends before the others
            alone, together = alone[1:], together[1:]
        tokens = [7 + step, 20 + step, 33 + step][-len(alone) :]
        expected = [decoder.step(token) for decoder, token in zip(alone, tokens, strict=True)]
        found = step_batch(together, tokens)


@pytest.fixture
def engine(tiny_tokenizer: Any) -> FocusEngine:
    model = tiny_model("llama", vocab_size=len(tiny_tokenizer), max_position_embeddings=1024)
    adapter = untrained_adapter(model)
    weights = {name: weight + 0.1 * torch.randn_like(weight) for name, weight in adapter.weights.items()}
    return FocusEngine(
        BaseModel(model, tiny_tokenizer, "tiny"), Adapter(adapter.config, weights), FocusConfig(chunk_size=64)
    )


@pytest.fixture
def memory(engine: FocusEngine) -> DocumentMemory:
    return engine.read(Document.from_text(TEXT))


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_answers_are_those_of_asking_one_by_one(engine: FocusEngine, memory: DocumentMemory, batch: int) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 6, "ignore_eos": True}
    answers = engine.ask_many(memory, QUESTIONS, batch=batch, **settings)
    for question, answer in zip(QUESTIONS, answers, strict=True):
        expected = engine.ask(memory, question, **settings)
        assert answer.token_ids == expected.token_ids
        assert answer.text == expected.text
        assert [source.chunk for source in answer.sources] == [source.chunk for source in expected.sources]
        assert answer.usage == expected.usage
        assert answer.finish_reason == expected.finish_reason


def test_each_answer_ends_at_its_own_stop(engine: FocusEngine, memory: DocumentMemory) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 12, "ignore_eos": True}
    first = engine.ask(memory, QUESTIONS[0], **settings).text
    stop = first[2:4]
    answers = engine.ask_many(memory, QUESTIONS, stop=stop, **settings)
    assert answers[0].finish_reason == "stop"
    assert [answer.text for answer in answers] == [
        engine.ask(memory, question, stop=stop, **settings).text for question in QUESTIONS
    ]


def test_several_memories(engine: FocusEngine, memory: DocumentMemory) -> None:
    both = engine.ask_many([memory, memory], QUESTIONS[:2], max_new_tokens=2)
    assert [answer.usage.num_chunks for answer in both] == [2 * memory.num_chunks] * 2


def test_can_be_cancelled(engine: FocusEngine, memory: DocumentMemory) -> None:
    cancel = threading.Event()
    cancel.set()
    answers = engine.ask_many(memory, QUESTIONS, cancel=cancel)
    assert [(answer.finish_reason, answer.text) for answer in answers] == [("cancelled", "")] * 3


def test_questions_of_several_threads_share_their_passes(
    engine: FocusEngine, memory: DocumentMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    all_here = threading.Barrier(3, timeout=10)

    def counted(*args: Any) -> list[torch.Tensor]:
        sizes.append(len(args[2]))
        return run_together(*args)

    def ask(question: str) -> list[int]:
        all_here.wait()
        return list(engine.ask(memory, question, max_new_tokens=40, ignore_eos=True).token_ids)

    expected = [list(engine.ask(memory, each, max_new_tokens=40, ignore_eos=True).token_ids) for each in QUESTIONS]
    monkeypatch.setattr("focusdoc.decoding.together.run_together", counted)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(ask, QUESTIONS)) == expected
    assert sum(sizes) == 3 * 40
    assert len(sizes) < 3 * 40


@pytest.mark.parametrize(
    ("questions", "settings", "error", "message"),
    [
        ([], {}, ConfigError, "at least one question"),
        ("What?", {}, ConfigError, "at least one question"),
        (["What?", " "], {}, ConfigError, "empty"),
        (["What?"], {"batch": 0}, ConfigError, "batch is 0"),
        (["What?"], {"batch": 1.5}, ConfigError, "batch is 1.5"),
        (["What?"], {"max_sources": -1}, ConfigError, "max_sources is -1"),
        (["What?", "What? " * 500], {}, PromptTooLongError, "local window"),
        (["What?"], {"max_new_tokens": 0}, ConfigError, "max_new_tokens is 0"),
    ],
)
def test_bad_calls(
    engine: FocusEngine, memory: DocumentMemory, questions: Any, settings: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        engine.ask_many(memory, questions, **settings)
