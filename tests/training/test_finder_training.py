"""Training candidates to find: the signals are the finder's, and training moves the answer's window to the top."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from focusdoc import Document, FocusConfig, FocusEngine
from focusdoc.decoding.prompt import question_prompt
from focusdoc.errors import AdapterError, ConfigError, TrainingError
from focusdoc.modeling.adapter import Adapter, untrained_adapter
from focusdoc.modeling.adapter_files import load_adapter, save_adapter
from focusdoc.readers.finding import LOOKS, RELEVANCE, WORDS, places_of
from focusdoc.readers.windows import Windows
from focusdoc.training.finding import FinderWeights, Lesson, loss_of, signals_of
from tiny_models import random_adapter, tiny_engine

TEXT = " ".join(f"The colour of house {number} is painted blue." for number in range(30))
QUESTIONS = ["What colour is house 17?", "Who lives in house 3, and since when?"]


@pytest.fixture
def engine(tiny_tokenizer: Any) -> FocusEngine:
    return tiny_engine(tiny_tokenizer, FocusConfig(chunk_size=64, local_window=256))


def lesson_of(engine: FocusEngine) -> Lesson:
    memory = engine.read(Document.from_text(TEXT))
    windows = Windows(TEXT)
    places = places_of([memory], [windows])
    words = [torch.from_numpy(windows.matches(question)) for question in QUESTIONS]
    last = torch.arange(len(windows.spans)) == len(windows.spans) - 1
    prompts = [question_prompt(engine.base.tokenizer, question) for question in QUESTIONS]
    return Lesson(memory, places.tokens, places.chunks, prompts, [own / own.max() for own in words], [last, last])


def signals(engine: FocusEngine, weights: FinderWeights, lesson: Lesson) -> list[torch.Tensor]:
    layers = weights.candidates.layers(engine.base.device, engine.base.dtype)
    return signals_of(engine.base, engine.kernel, weights, layers, lesson, [0, 1])


def losses(engine: FocusEngine, weights: FinderWeights, lesson: Lesson) -> list[torch.Tensor]:
    found = signals(engine, weights, lesson)
    return [loss_of(own, holds, weights.signals) for own, holds in zip(found, lesson.holds, strict=True)]


def randomized(engine: FocusEngine, start: Adapter | None = None) -> FinderWeights:
    weights = FinderWeights(start or random_adapter(engine.base.model), engine.base, rank=2)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in weights.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return weights


def test_the_signals_are_those_of_the_finder_with_the_trained_weights(engine: FocusEngine) -> None:
    weights = randomized(engine)
    adapter = replace(random_adapter(engine.base.model), finding=weights.trained())
    trained = FocusEngine(engine.base, adapter, engine.config)
    memory = trained.read(Document.from_text(TEXT))
    for question, own in zip(QUESTIONS, signals(engine, weights, lesson_of(engine)), strict=True):
        found = trained.find(memory, question)
        torch.testing.assert_close(own, found.signals[:, [LOOKS, RELEVANCE, WORDS]], atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(own @ weights.signals, found.scores, atol=1e-3, rtol=1e-3)


class TestWithoutAnAdapter:
    """Candidates that start from the base's own projections become an adapter that only finds."""

    @pytest.fixture
    def adapter(self, engine: FocusEngine, tmp_path: Path) -> Adapter:
        start = untrained_adapter(engine.base.model)
        trained = randomized(engine, start).trained_adapter(start, 64)
        assert trained.config.rank == 2
        return load_adapter(save_adapter(trained, tmp_path / "adapter"))

    def test_the_signals_are_those_of_the_finder(self, engine: FocusEngine, adapter: Adapter) -> None:
        weights = randomized(engine, untrained_adapter(engine.base.model))
        trained = FocusEngine(engine.base, adapter, FocusConfig(local_window=256))
        memory = trained.read(Document.from_text(TEXT))
        for question, own in zip(QUESTIONS, signals(engine, weights, lesson_of(engine)), strict=True):
            found = trained.find(memory, question)
            # The adapter is stored in bfloat16.
            torch.testing.assert_close(own, found.signals[:, [LOOKS, RELEVANCE, WORDS]], atol=0.1, rtol=0.05)

    def test_the_base_answers_by_a_look(self, engine: FocusEngine, adapter: Adapter) -> None:
        config = FocusConfig(local_window=256, heads=((0, 1),))
        looks = FocusEngine(engine.base, adapter, config)
        assert looks.config.condensing == "look"
        assert looks.config.chunk_size == 64
        answer = looks.ask(looks.read(Document.from_text(TEXT)), QUESTIONS[0])
        alone = FocusEngine(engine.base, None, replace(config, chunk_size=64))
        assert answer.text == alone.ask(alone.read(Document.from_text(TEXT)), QUESTIONS[0]).text

    def test_answers_by_its_candidates_are_refused(self, engine: FocusEngine, adapter: Adapter) -> None:
        with pytest.raises(ConfigError, match="only find"):
            FocusEngine(engine.base, adapter, FocusConfig(condensing="candidates"))
        with pytest.raises(AdapterError, match="only find"):
            FocusEngine(engine.base, adapter, FocusConfig(local_window=256)).require_adapter()

    def test_a_look_that_is_asked_for_looks(self, engine: FocusEngine) -> None:
        """Even beside candidates that find; it reads the layers that it needs."""
        config = replace(engine.config, condensing="look", heads=((0, 1),))
        adapter = replace(random_adapter(engine.base.model), finding=randomized(engine).trained())
        found = []
        for each in (adapter, None):
            looks = FocusEngine(engine.base, each, config)
            memory = looks.read(Document.from_text(TEXT))
            assert memory.blocks[0].keys.shape[0] == 1
            found.append(looks.find(memory, QUESTIONS[0]).scores)
        assert found[0].equal(found[1])


def test_training_goes_on_from_trained_weights(engine: FocusEngine) -> None:
    adapter = random_adapter(engine.base.model)
    trained = randomized(engine, adapter).trained()
    again = FinderWeights(replace(adapter, finding=trained), engine.base, rank=2)
    lesson = lesson_of(engine)
    for one, other in zip(
        signals(engine, randomized(engine, adapter), lesson), signals(engine, again, lesson), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    with pytest.raises(TrainingError, match="rank"):
        FinderWeights(replace(adapter, finding=trained), engine.base, rank=4)


def test_all_weights_get_a_gradient(engine: FocusEngine) -> None:
    weights = randomized(engine)
    lesson = lesson_of(engine)
    torch.autograd.backward(losses(engine, weights, lesson))
    for name, parameter in weights.named_parameters():
        if "1_o" not in name:  # nothing follows the output of the last layer
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all()
            assert parameter.grad.any(), name


def test_training_moves_the_answers_window_to_the_top(engine: FocusEngine) -> None:
    weights = FinderWeights(random_adapter(engine.base.model), engine.base, rank=4)
    lesson = lesson_of(engine)
    optimizer = torch.optim.Adam(weights.parameters(), lr=0.02)
    before = torch.stack(losses(engine, weights, lesson)).sum().item()
    for _ in range(15):
        torch.autograd.backward(losses(engine, weights, lesson))
        nn.utils.clip_grad_norm_(weights.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert torch.stack(losses(engine, weights, lesson)).sum().item() < before / 2
    assert all(int((own @ weights.signals).argmax()) == len(own) - 1 for own in signals(engine, weights, lesson))
