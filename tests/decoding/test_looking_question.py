"""What the base model's heads take from the chunks for a question, as transformers' own attention has it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from focusdoc import FocusConfig
from focusdoc.attention import attention_kernel
from focusdoc.decoding.looking import retrieval_scores
from focusdoc.decoding.parallel import ParallelDecoder
from focusdoc.decoding.state import QuestionRows
from focusdoc.memory.reading import read_chunks
from focusdoc.modeling.base import BaseModel
from tiny_models import random_weights, tiny_model

TOLERANCE = {"atol": 2e-5, "rtol": 1e-3}
PROMPT = [5, 9, 33, 70, 8, 14]
IDS = torch.randint(3, 96, (16 * 4 + 5,), generator=torch.Generator().manual_seed(1)).tolist()
#: In the middle of the prompt, and with the candidate's row at its end left out.
ROWS = QuestionRows(2, 5, ((0, 1), (1, 0), (1, 3)))


def started(base: BaseModel, rows: QuestionRows | None = ROWS, **config: Any) -> ParallelDecoder:
    kernel = attention_kernel("auto")
    blocks = read_chunks(base, IDS, 16, kernel, memory_dtype=config.get("memory_dtype", "model"))
    settings = FocusConfig(chunk_size=16, **config)
    one = ParallelDecoder(base, random_weights(base.model), blocks, kernel=kernel, config=settings, max_new_tokens=4)
    if rows is None:
        one.start(PROMPT, PROMPT)
    else:
        one.look(PROMPT, PROMPT, rows)
    return one


def naive(base: BaseModel, chunk: list[int]) -> torch.Tensor:
    """The look [heads, chunk_len], by one pass of the whole model over chunk and prompt."""
    output = base.model(torch.tensor([chunk + PROMPT]), output_attentions=True, use_cache=True)
    looks = []
    for layer, head in ROWS.heads:
        rows = slice(len(chunk) + ROWS.first, len(chunk) + ROWS.last)
        weights = output.attentions[layer][:, head : head + 1, rows, : len(chunk)]
        values = output.past_key_values.layers[layer].values[:, head // 2 : head // 2 + 1, : len(chunk)]
        looks.append(retrieval_scores(weights, values)[0, 0].sum(dim=0))
    return torch.stack(looks)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3_text", "granite"])
@pytest.mark.parametrize("chunk_batch", [None, 2])
def test_looks_are_those_of_the_model_itself(family: str, chunk_batch: int | None) -> None:
    base = BaseModel(tiny_model(family))
    one = started(base, chunk_batch=chunk_batch)
    chunks = [4, 0, 3]
    for index, looked in zip(chunks, one.question_token_scores(chunks), strict=True):
        torch.testing.assert_close(looked, naive(base, IDS[16 * index : 16 * (index + 1)]), **TOLERANCE)


def test_the_order_of_heads_is_that_of_the_rows() -> None:
    base = BaseModel(tiny_model("llama"))
    (all_of_them,) = started(base).question_token_scores([1])
    (last,) = started(base, QuestionRows(2, 5, ((1, 3),))).question_token_scores([1])
    torch.testing.assert_close(all_of_them[2], last[0], **TOLERANCE)


def test_an_int8_memory_gives_nearly_the_same() -> None:
    base = BaseModel(tiny_model("llama"))
    (exact,), (rounded,) = (started(base, memory_dtype=dtype).question_token_scores([2]) for dtype in ("model", "int8"))
    assert torch.cosine_similarity(exact.flatten(), rounded.flatten(), dim=0) > 0.98


def test_a_question_that_is_the_whole_prompt() -> None:
    one = started(BaseModel(tiny_model("llama")), QuestionRows(0, len(PROMPT), ((1, 0),)))
    assert all(look.shape == (1, 16) and look.isfinite().all() for look in one.question_token_scores([0, 1]))


def test_it_changes_neither_the_answer_nor_the_candidates_look() -> None:
    base = BaseModel(tiny_model("llama"))
    one, other = started(base), started(base, None)
    torch.testing.assert_close(one.step(7), other.step(7))
    torch.testing.assert_close(one.candidate_mass, other.candidate_mass)


def test_without_heads_there_is_no_look() -> None:
    assert started(BaseModel(tiny_model("llama")), QuestionRows(2, 5)).question_token_scores([0]) == []
