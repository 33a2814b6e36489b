"""Incremental mode agrees with its slow reference, whatever the model family and however chunks are batched."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from focusdoc.attention import attention_kernel
from focusdoc.config import FocusConfig
from focusdoc.decoding.parallel import ParallelDecoder, RefreshedDecoder
from focusdoc.memory.reading import read_chunks
from focusdoc.modeling.base import BaseModel
from incremental_reference import IncrementalReference
from tiny_models import CLASSES, random_weights, tiny_model

TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}


def ids(count: int, seed: int) -> list[int]:
    return torch.randint(3, 96, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def decode(
    base: BaseModel,
    weights: Any,
    document: list[int],
    local: list[int],
    answer: list[int],
    *,
    attention: str = "auto",
    kind: type[ParallelDecoder] = ParallelDecoder,
    **config: Any,
) -> tuple[torch.Tensor, ParallelDecoder]:
    """Teacher-forced logits [1 + len(answer), vocab] of the engine's decoder."""
    settings = FocusConfig(**{"candidate_positions": "sequential", "prompt_window": 6, **config})
    kernel = attention_kernel(attention)
    blocks = read_chunks(base, document, settings.chunk_size or 16, kernel)
    decoder = kind(base, weights, blocks, kernel=kernel, config=settings, max_new_tokens=len(answer) + 1)
    logits = [decoder.start(local, local[-settings.prompt_window :])]
    logits += [decoder.step(token) for token in answer]
    return torch.stack(logits), decoder


def reference(
    model: Any, weights: Any, document: list[int], local: list[int], answer: list[int], *, shared: bool = False
) -> torch.Tensor:
    chunks = [document[start : start + 16] for start in range(0, len(document), 16)]
    slow = IncrementalReference(model, weights, chunks, shared=shared)
    logits = [slow.start(local, local[-6:])]
    logits += [slow.step(token) for token in answer]
    return torch.stack(logits)


@pytest.mark.parametrize("family", CLASSES)
@pytest.mark.parametrize("positions", ["sequential", "shared"])
def test_agrees_with_the_reference(family: str, positions: str) -> None:
    model = tiny_model(family)
    weights = random_weights(model)
    document, local, answer = ids(58, 1), ids(9, 2), ids(5, 3)
    fast, _ = decode(BaseModel(model), weights, document, local, answer, chunk_size=16, candidate_positions=positions)
    slow = reference(model, weights, document, local, answer, shared=positions == "shared")
    torch.testing.assert_close(fast, slow, **TOLERANCE)


@pytest.mark.parametrize(
    ("document", "local", "answer"),
    [(16, 9, 3), (7, 9, 3), (17, 2, 3), (48, 1, 4), (64, 20, 0)],
    ids=["one full chunk", "one ragged chunk", "ragged by one", "prompt of one token", "no decode step"],
)
def test_agrees_with_the_reference_at_the_edges(document: int, local: int, answer: int) -> None:
    model = tiny_model("llama")
    weights = random_weights(model)
    inputs = ids(document, 4), ids(local, 5), ids(answer, 6)
    fast, _ = decode(BaseModel(model), weights, *inputs, chunk_size=16)
    torch.testing.assert_close(fast, reference(model, weights, *inputs), **TOLERANCE)


@pytest.mark.parametrize("family", ["mistral", "gemma3_text"])
def test_a_sliding_window_hides_the_beginning_of_a_chunk(family: str) -> None:
    """16 + 6 + 5 tokens behind a chunk pass the window of 20; k + 9 + 5 local positions do not."""
    model = tiny_model(family, sliding_window=20)
    weights = random_weights(model)
    inputs = ids(48, 1), ids(9, 2), ids(5, 3)
    fast, _ = decode(BaseModel(model), weights, *inputs, chunk_size=16)
    slow = reference(model, weights, *inputs)
    torch.testing.assert_close(fast, slow, **TOLERANCE)
    unlimited = tiny_model(family, sliding_window=4096)
    assert (reference(unlimited, weights, *inputs) - slow).abs().max() > 1e-3, "the window had no effect to test"


@pytest.mark.parametrize("attention", ["naive", "sdpa"])
@pytest.mark.parametrize("chunk_batch", [1, 2, None])
@pytest.mark.parametrize("kind", [ParallelDecoder, RefreshedDecoder])
def test_results_do_not_depend_on_how_chunks_are_batched(
    attention: str, chunk_batch: int | None, kind: type[ParallelDecoder]
) -> None:
    model = tiny_model("llama")
    weights = random_weights(model)
    inputs = ids(90, 1), ids(9, 2), ids(4, 3)
    base = BaseModel(model)
    settings: dict[str, Any] = {"chunk_size": 16, "kind": kind}
    expected, whole = decode(base, weights, *inputs, attention="naive", **settings)
    found, decoder = decode(base, weights, *inputs, attention=attention, chunk_batch=chunk_batch, **settings)
    torch.testing.assert_close(found, expected, **TOLERANCE)
    torch.testing.assert_close(decoder.candidate_mass, whole.candidate_mass, **TOLERANCE)


def test_a_subset_of_projections_falls_back_to_the_base() -> None:
    model = tiny_model("llama")
    weights = [{letter: layer[letter] for letter in "kv"} for layer in random_weights(model)]
    inputs = ids(40, 1), ids(9, 2), ids(3, 3)
    fast, _ = decode(BaseModel(model), weights, *inputs, chunk_size=16)
    torch.testing.assert_close(fast, reference(model, weights, *inputs), **TOLERANCE)


def test_candidate_mass_is_the_share_of_attention_that_candidates_got() -> None:
    model = tiny_model("llama")
    _, decoder = decode(BaseModel(model), random_weights(model), ids(90, 1), ids(9, 2), ids(4, 3), chunk_size=16)
    assert decoder.candidate_mass.shape == (6,)
    assert (decoder.candidate_mass > 0).all()
    assert decoder.candidate_mass.sum() < 1


@pytest.mark.gpu
@pytest.mark.parametrize("family", CLASSES)
@pytest.mark.parametrize("positions", ["sequential", "shared"])
def test_on_a_gpu_agrees_with_the_reference_on_the_cpu(gpu: torch.device, family: str, positions: str) -> None:
    model = tiny_model(family)
    weights = random_weights(model)
    document, local, answer = ids(58, 1), ids(9, 2), ids(5, 3)
    slow = reference(model, weights, document, local, answer, shared=positions == "shared")
    there = [{letter: weight.to(gpu) for letter, weight in layer.items()} for layer in weights]
    base = BaseModel(tiny_model(family).to(gpu))
    fast, _ = decode(base, there, document, local, answer, chunk_size=16, candidate_positions=positions)
    torch.testing.assert_close(fast.cpu(), slow, **TOLERANCE)
