"""Low-rank adapters: pairs of matrices on disk, which are added to the base's weights when they are loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from focusdoc import FocusConfig, FocusEngine
from focusdoc.errors import AdapterError
from focusdoc.modeling.adapter import Adapter, check_adapter, untrained_adapter
from focusdoc.modeling.adapter_files import load_adapter, save_adapter, to_official_names
from focusdoc.modeling.base import load_base
from focusdoc.modeling.families import FAMILIES
from focusdoc.modeling.low_rank import low_rank, merged

ModelMaker = Callable[..., nn.Module]
RANK = 3


def changed(model: nn.Module, projections: str = "qkvo") -> Adapter:
    """An adapter whose matrices differ from the base's by products of `RANK`."""
    adapter = untrained_adapter(model, projections)
    generator = torch.Generator().manual_seed(0)
    for name, weight in adapter.weights.items():
        left, right = (torch.randn(size, RANK, generator=generator) for size in weight.shape)
        adapter.weights[name] = weight + 0.1 * left @ right.T
    return adapter


@pytest.fixture
def model(make_model: ModelMaker) -> nn.Module:
    return make_model("llama")


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_difference_of_that_rank_is_kept_exactly(family: str, make_model: ModelMaker) -> None:
    model = make_model(family)
    adapter = changed(model)
    again = merged(low_rank(adapter, model, RANK), model)
    assert again.config == adapter.config
    for name, weight in adapter.weights.items():
        torch.testing.assert_close(again.weights[name], weight, atol=1e-5, rtol=1e-5)


def test_a_lower_rank_is_the_closest_approximation(model: nn.Module) -> None:
    adapter = changed(model)
    base = untrained_adapter(model).weights
    smaller = merged(low_rank(adapter, model, RANK - 1), model)
    for name, weight in adapter.weights.items():
        smallest = torch.linalg.svdvals(weight - base[name])[RANK - 1]
        torch.testing.assert_close(torch.linalg.matrix_norm(smaller.weights[name] - weight), smallest)


def test_it_is_saved_and_loaded_in_pairs(model: nn.Module, tmp_path: Path) -> None:
    stored = low_rank(changed(model, "kv"), model, RANK)
    loaded = load_adapter(save_adapter(stored, tmp_path / "adapter"), model)
    assert loaded.config.rank == RANK
    assert set(loaded.weights) == {f"layers.{i}.{each}.{part}" for i in range(2) for each in "kv" for part in "ab"}
    assert all(torch.equal(weight, stored.weights[name]) for name, weight in loaded.weights.items())


def test_a_full_adapter_is_merged_already(model: nn.Module) -> None:
    adapter = changed(model)
    assert merged(adapter, model) is adapter


def test_an_engine_answers_as_with_the_full_matrices(model: nn.Module) -> None:
    base = load_base(model)
    adapter = changed(model)
    stored = low_rank(adapter, model, RANK)
    config = FocusConfig(chunk_size=16, local_window=16)
    ids = [(7 * token) % 60 for token in range(80)]
    engines = (FocusEngine(base, each, config) for each in (adapter, stored))
    full, low = (engine.generate(ids, max_new_tokens=4, return_logits=True) for engine in engines)
    assert low.token_ids == full.token_ids
    torch.testing.assert_close(low.logits, full.logits, atol=1e-4, rtol=1e-4)


class TestMistakes:
    @pytest.mark.parametrize("rank", [0, -1, 1000])
    def test_of_the_rank(self, rank: int, model: nn.Module) -> None:
        with pytest.raises(AdapterError, match=f"The rank is {rank}; it must be 1 to 16"):
            low_rank(changed(model), model, rank)

    def test_a_low_rank_adapter_has_no_lower_rank_and_no_official_names(self, model: nn.Module) -> None:
        stored = low_rank(changed(model), model, RANK)
        with pytest.raises(AdapterError, match="has rank 3 already"):
            low_rank(stored, model, 2)
        with pytest.raises(AdapterError, match=r"full matrices only; name its base model"):
            to_official_names(stored)

    def test_it_is_checked_against_the_model(self, model: nn.Module, make_model: ModelMaker) -> None:
        stored = low_rank(changed(model), model, RANK)
        check_adapter(stored, model)
        with pytest.raises(AdapterError):
            merged(stored, make_model("qwen2"))
        stored.weights["layers.1.k.a"] = stored.weights["layers.1.k.a"][:2]
        with pytest.raises(AdapterError, match=r"layers\.1\.k\.a has shape \[2, 32\], but .* needs \[3, 32\]"):
            merged(stored, model)
        del stored.weights["layers.1.k.a"]
        with pytest.raises(AdapterError, match=r"layers\.1\.k\.a is missing"):
            check_adapter(stored, model)
