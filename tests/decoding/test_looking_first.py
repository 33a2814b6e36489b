"""The first look tells what computing the candidates once more would tell."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from focusdoc import FocusConfig
from focusdoc.attention import attention_kernel
from focusdoc.decoding.candidates import start_batch
from focusdoc.decoding.parallel import ParallelDecoder
from focusdoc.memory.reading import read_chunks
from focusdoc.modeling.base import BaseModel
from tiny_models import random_weights, tiny_model

TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}
PROMPT = [5, 9, 33, 70, 8, 14]
RAGGED = 4  # the last chunk, which is shorter
#: Keys of a chunk of 16 that no candidate behind the prompt sees: 16 + 6 - 20.
WINDOW, UNSEEN = 20, 2


def decoder(base: BaseModel, **config: Any) -> ParallelDecoder:
    ids = torch.randint(3, 96, (16 * RAGGED + 5,), generator=torch.Generator().manual_seed(1)).tolist()
    kernel = attention_kernel("auto")
    blocks = read_chunks(base, ids, 16, kernel, memory_dtype=config.get("memory_dtype", "model"))
    settings = FocusConfig(chunk_size=16, **config)
    return ParallelDecoder(base, random_weights(base.model), blocks, kernel=kernel, config=settings, max_new_tokens=4)


def computed_again(one: ParallelDecoder, chunks: list[int], masses: torch.Tensor) -> list[torch.Tensor]:
    return one._dense_token_scores(chunks, PROMPT[-1:], masses, len(PROMPT))


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text"])
@pytest.mark.parametrize("positions", ["sequential", "shared"])
@pytest.mark.parametrize("memory_dtype", ["model", "int8"])
@pytest.mark.parametrize("chunk_batch", [None, 2])
def test_it_is_what_the_candidates_computed_again_look_at(
    family: str, positions: str, memory_dtype: str, chunk_batch: int | None
) -> None:
    base = BaseModel(tiny_model(family))
    one = decoder(base, candidate_positions=positions, memory_dtype=memory_dtype, chunk_batch=chunk_batch)
    one.start(PROMPT, PROMPT)
    chunks, masses = [3, RAGGED, 0], one.candidate_mass[None].clone()
    expected = computed_again(one, chunks, masses)
    for _ in ("before the first step", "and behind it"):
        found = one.answer_token_scores(chunks, PROMPT[-1:], masses, prompt_len=len(PROMPT))
        for looked, other in zip(found, expected, strict=True):
            torch.testing.assert_close(looked / looked.sum(), other / other.sum(), **TOLERANCE)
            torch.testing.assert_close(looked.sum(), other.sum(), atol=0, rtol=1e-3)
        one.step(11)


def test_what_a_sliding_window_hides_is_not_looked_at() -> None:
    base = BaseModel(tiny_model("mistral", sliding_window=WINDOW))
    one = decoder(base)
    one.start(PROMPT, PROMPT)
    masses = torch.ones(1, one.num_chunks)
    found = one.answer_token_scores([0, 2], PROMPT[-1:], masses, prompt_len=len(PROMPT))
    for looked, other in zip(found, computed_again(one, [0, 2], masses), strict=True):
        assert not looked[:UNSEEN].any()
        assert looked[4:].all()
        torch.testing.assert_close(looked, other, **TOLERANCE)


def test_a_chunk_that_sits_out_is_looked_into_as_the_first_token_did() -> None:
    base = BaseModel(tiny_model("llama"))
    everywhere, few = decoder(base), decoder(base, active_chunks=2)
    for one in (everywhere, few):
        one.start(PROMPT, PROMPT)
        one.step(11)
    out = next(index for index in range(few.num_chunks) if index not in few.active)
    masses = torch.ones(2, few.num_chunks)
    (first,) = everywhere.answer_token_scores([out], PROMPT[-1:], masses, prompt_len=len(PROMPT))
    (looked,) = few.answer_token_scores([out], [PROMPT[-1], 11], masses, prompt_len=len(PROMPT))
    torch.testing.assert_close(looked, first, **TOLERANCE)


def test_of_questions_asked_together_each_has_its_own() -> None:
    base = BaseModel(tiny_model("llama"))
    prompts = [PROMPT, PROMPT[::-1]]
    together, alone = [[decoder(base, chunk_batch=2) for _ in prompts] for _ in range(2)]
    start_batch(together, [(prompt, prompt) for prompt in prompts])
    for one, other, prompt in zip(together, alone, prompts, strict=True):
        other.start(prompt, prompt)
        masses = torch.ones(1, one.num_chunks)
        looks = [
            each.answer_token_scores([1, RAGGED], prompt[-1:], masses, prompt_len=len(prompt)) for each in (one, other)
        ]
        for looked, expected in zip(*looks, strict=True):
            torch.testing.assert_close(looked, expected, **TOLERANCE)
