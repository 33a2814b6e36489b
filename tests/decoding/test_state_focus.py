"""Focus: chunks without attention sit out, and what is left computes as if only they had been there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from focusdoc import Document, FocusConfig, FocusEngine
from focusdoc.attention import attention_kernel
from focusdoc.decoding.parallel import ParallelDecoder
from focusdoc.decoding.state import AUTO_MIN_CHUNKS, choose_active
from focusdoc.errors import ConfigError
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.reading import read_chunks
from focusdoc.modeling.adapter import untrained_adapter
from focusdoc.modeling.base import BaseModel
from tiny_models import random_weights, tiny_model


def some_ids(count: int, seed: int) -> list[int]:
    return torch.randint(3, 96, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


class TestChoosing:
    MASS = torch.tensor([0.1, 0.5, 0.0, 0.3, 0.1])

    @pytest.mark.parametrize(
        ("active", "chosen"), [("all", [0, 1, 2, 3, 4]), (2, [1, 3]), (9, [0, 1, 2, 3, 4]), (1, [1])]
    )
    def test_the_best_in_order(self, active: Any, chosen: list[int]) -> None:
        assert choose_active(self.MASS, active) == chosen

    def test_auto_holds_nearly_all_attention(self) -> None:
        even = torch.full((100,), 0.01)
        assert 94 <= len(choose_active(even, "auto")) <= 96
        peak = torch.full((100,), 1e-4)
        peak[40] = 5.0
        chosen = choose_active(peak, "auto")
        assert len(chosen) == AUTO_MIN_CHUNKS
        assert 40 in chosen
        assert choose_active(torch.zeros(3), "auto") == [0, 1, 2]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text"])
@pytest.mark.parametrize("positions", ["sequential", "shared"])
@pytest.mark.parametrize("chunk_batch", [None, 2])
def test_later_steps_see_the_active_chunks_alone(family: str, positions: str, chunk_batch: int | None) -> None:
    """From the same state, a step over the active chunks is a step over a memory that never had the others."""
    base = BaseModel(tiny_model(family))
    weights, kernel = random_weights(base.model), attention_kernel("auto")
    blocks = read_chunks(base, some_ids(16 * 5 + 7, 1), 16, kernel)

    def decoder(active: Any, over: tuple[MemoryBlock, ...] = blocks) -> ParallelDecoder:
        settings: Any = {"candidate_positions": positions, "active_chunks": active, "chunk_batch": chunk_batch}
        config = FocusConfig(chunk_size=16, **settings)
        return ParallelDecoder(base, weights, over, kernel=kernel, config=config, max_new_tokens=4)

    question = some_ids(6, 2)
    every, some = decoder("all"), decoder(3)
    torch.testing.assert_close(some.start(question, question), every.start(question, question))
    kept = choose_active(every.candidate_mass, 3)
    for token in (11, 12, 13):
        found = some.step(token)
        assert some.active == kept
        assert torch.isfinite(found).all()
        assert some.candidate_mass.count_nonzero() <= 3
        assert all(some.candidate_mass[index] == 0 for index in range(6) if index not in kept)
    alone = decoder("all", tuple(_single(blocks, index) for index in kept))
    alone.start(question, question)
    if positions == "shared":  # else the places of the candidates differ
        # Apart from the first token, which saw all: its KV is what the local context holds.
        alone.local.keys[:, :, len(kept) :] = some.local.keys[:, :, len(kept) :]
        alone.local.values[:, :, len(kept) :] = some.local.values[:, :, len(kept) :]
        for token in (11, 12, 13):
            last = alone.step(token)
        torch.testing.assert_close(last, found, atol=2e-5, rtol=1e-4)


def _single(blocks: tuple[MemoryBlock, ...], index: int) -> MemoryBlock:
    for block in blocks:
        if index < block.num_chunks:
            return MemoryBlock(block.keys[:, index : index + 1], block.values[:, index : index + 1])
        index -= block.num_chunks
    raise IndexError(index)


def test_as_many_as_there_are_changes_nothing(tiny_tokenizer: Any) -> None:
    model = tiny_model("llama", vocab_size=len(tiny_tokenizer), max_position_embeddings=1024)
    base, adapter = BaseModel(model, tiny_tokenizer), untrained_adapter(model)
    text = "one two three four five six seven eight nine ten. " * 12
    answers = {}
    for active in ("all", "auto", 100, 1):
        engine = FocusEngine(base, adapter, FocusConfig(chunk_size=64, active_chunks=active))
        answers[active] = engine.ask(engine.read(Document.from_text(text)), "What?", max_new_tokens=6, ignore_eos=True)
    assert answers["all"].token_ids == answers[100].token_ids
    for answer in answers.values():
        assert len(answer.token_ids) == 6
        assert 1 <= len(answer.sources) <= 3


@pytest.mark.parametrize("active", [0, -1, True, "some", 1.5])
def test_wrong_numbers(active: Any) -> None:
    with pytest.raises(ConfigError, match="active_chunks is"):
        FocusConfig(active_chunks=active)


@pytest.mark.parametrize("settings", [{"condensing": "look"}, {"local_attention": "refresh"}])
def test_modes_that_cannot(settings: Any) -> None:
    with pytest.raises(ConfigError, match="sit out"):
        FocusConfig(active_chunks=3, **settings)
