"""LoRA weights: small matrices beside a model's linear layers, in PEFT's file format."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from focusdoc.errors import AdapterError
from focusdoc.modeling.adapter_files import SHIPPED_FOLDER
from focusdoc.modeling.catalogue import CATALOGUE, CatalogueModel
from focusdoc.modeling.families import FAMILIES
from focusdoc.modeling.lora import CONFIG_FILE, WEIGHTS_FILE, Lora, load_lora, lora_twin, new_lora, save_lora

ModelMaker = Callable[..., nn.Module]
NAMES = frozenset({"q_proj", "o_proj"})
TOKENS = torch.arange(12)[None]


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(TOKENS).logits
    return found


@pytest.fixture
def model(make_model: ModelMaker) -> nn.Module:
    return make_model("qwen2")


def random_lora(model: nn.Module, names: frozenset[str] = NAMES) -> Lora:
    lora = new_lora("tiny", model, names, rank=2, scale=2.0)
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: tuple((torch.randn(each.shape, generator=generator) / 4).bfloat16().float() for each in pair)
        for name, pair in lora.weights.items()
    }
    return Lora("tiny", 2.0, weights)  # type: ignore[arg-type]  # tuples of two


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_new_weights_change_nothing(family: str, make_model: ModelMaker) -> None:
    model = make_model(family)
    lora = new_lora("tiny", model, NAMES, rank=2, scale=2.0)
    assert len(lora.weights) == 4  # two layers
    assert torch.equal(logits(lora_twin(model, lora)), logits(model))


def test_a_twin_computes_what_merged_weights_do_and_the_model_stays_as_it_was(
    model: nn.Module, make_model: ModelMaker
) -> None:
    before, lora = logits(model), random_lora(model)
    tuned = logits(lora_twin(model, lora))
    merged = make_model("qwen2")
    for name, (a, b) in lora.weights.items():
        merged.get_submodule(name).weight.data += lora.scale * b @ a  # type: ignore[operator]
    torch.testing.assert_close(tuned, logits(merged))
    assert not torch.allclose(tuned, before)
    assert torch.equal(logits(model), before)


def test_gradients_reach_the_small_matrices_only(model: nn.Module) -> None:
    model.requires_grad_(False)
    tuned: Any = lora_twin(model, random_lora(model))
    tuned(TOKENS).logits.sum().backward()
    assert {name.rpartition(".")[2] for name, each in tuned.named_parameters() if each.grad is not None} == {"a", "b"}


def test_saved_weights_are_loaded_again(model: nn.Module, tmp_path: Path) -> None:
    lora = random_lora(model)
    save_lora(lora, tmp_path / "lora")
    loaded = load_lora(tmp_path / "lora")
    assert (loaded.base_model, loaded.rank, loaded.scale) == ("tiny", 2, 2.0)
    assert loaded.fingerprint == lora.fingerprint != replace(lora, scale=1.0).fingerprint
    for name, pair in lora.weights.items():
        for kept, given in zip(loaded.weights[name], pair, strict=True):
            assert torch.equal(kept.float(), given)


def test_names_are_those_of_peft(model: nn.Module, tmp_path: Path) -> None:
    save_lora(random_lora(model), tmp_path / "lora")
    tensors = load_file(tmp_path / "lora" / WEIGHTS_FILE)
    assert tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"].shape == (2, 32)
    config = json.loads((tmp_path / "lora" / CONFIG_FILE).read_text())
    assert config["lora_alpha"] / config["r"] == 2.0
    assert config["target_modules"] == ["o_proj", "q_proj"]


def test_another_models_weights_are_refused(model: nn.Module, make_model: ModelMaker) -> None:
    lora = random_lora(model)
    with pytest.raises(AdapterError, match=r"\[32, 32\], do not fit this model's \[64, 64\].*trained for tiny"):
        lora_twin(make_model("qwen2", hidden_size=64), lora)
    with pytest.raises(AdapterError, match="do not fit this model's None"):
        lora_twin(make_model("qwen2", num_hidden_layers=1), lora)
    for name in ("model.layers.0.self_attn", "model.embed_tokens", ""):
        with pytest.raises(AdapterError, match="do not fit this model's None"):
            lora_twin(make_model("qwen2"), Lora("tiny", 2.0, {name: next(iter(lora.weights.values()))}))


class TestDamaged:
    @pytest.fixture
    def folder(self, model: nn.Module, tmp_path: Path) -> Path:
        save_lora(random_lora(model), tmp_path / "lora")
        return tmp_path / "lora"

    @pytest.mark.parametrize("file", [CONFIG_FILE, WEIGHTS_FILE])
    def test_a_file_that_is_missing_or_cut(self, folder: Path, file: str) -> None:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: len(content) // 2])
        with pytest.raises(AdapterError, match="no complete LoRA weights"):
            load_lora(folder)
        (folder / file).unlink()
        with pytest.raises(AdapterError, match="no complete LoRA weights"):
            load_lora(folder)

    @pytest.mark.parametrize(
        "changes",
        [
            {"peft_type": "IA3"},
            {"use_dora": True},
            {"bias": "all"},
            {"modules_to_save": ["lm_head"]},
            {"alpha_pattern": {"q_proj": 1}},
        ],
    )
    def test_other_kinds(self, folder: Path, changes: dict[str, Any]) -> None:
        config = json.loads((folder / CONFIG_FILE).read_text())
        (folder / CONFIG_FILE).write_text(json.dumps(config | changes))
        with pytest.raises(AdapterError, match="plain LoRA weights only"):
            load_lora(folder)

    @pytest.mark.parametrize(
        "changes", [{"r": 4}, {"r": 0}, {"r": 1e400}, {"lora_alpha": 10**400}, {"lora_alpha": float("nan")}]
    )
    def test_numbers_that_do_not_fit(self, folder: Path, changes: dict[str, Any]) -> None:
        config = json.loads((folder / CONFIG_FILE).read_text())
        (folder / CONFIG_FILE).write_text(json.dumps(config | changes))
        with pytest.raises(AdapterError, match=str(folder)):
            load_lora(folder)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_values_that_are_no_numbers(self, folder: Path, value: float) -> None:
        tensors = load_file(folder / WEIGHTS_FILE)
        next(iter(tensors.values()))[0, 0] = value
        save_file(tensors, folder / WEIGHTS_FILE)
        with pytest.raises(AdapterError, match="no finite numbers"):
            load_lora(folder)

    def test_whole_numbers(self, folder: Path) -> None:
        save_file({name: each.int() for name, each in load_file(folder / WEIGHTS_FILE).items()}, folder / WEIGHTS_FILE)
        with pytest.raises(AdapterError, match="no finite numbers"):
            load_lora(folder)

    def test_a_matrix_without_its_other_half(self, folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS_FILE)
        left_out = next(name for name in tensors if "lora_B" in name)
        save_file({name: each for name, each in tensors.items() if name != left_out}, folder / WEIGHTS_FILE)
        with pytest.raises(AdapterError, match="lacks the matrix that belongs to"):
            load_lora(folder)

    def test_tensors_of_something_else(self, folder: Path) -> None:
        save_file(load_file(folder / WEIGHTS_FILE) | {"other": torch.zeros(2)}, folder / WEIGHTS_FILE)
        with pytest.raises(AdapterError, match="no LoRA weights: "):
            load_lora(folder)


@pytest.mark.parametrize("known", [model for model in CATALOGUE if model.reading], ids=lambda known: known.name)
def test_shipped_weights_are_of_their_models_sizes(known: CatalogueModel) -> None:
    lora = load_lora(SHIPPED_FOLDER / str(known.reading))
    assert lora.base_model == known.name
    size = known.size
    assert {int(name.split(".")[2]) for name in lora.weights} == set(range(size.num_layers))
    for name, (a, b) in lora.weights.items():
        if name.endswith("q_proj"):
            assert (a.shape[1], b.shape[0]) == (size.hidden_size, size.num_heads * size.head_dim)
        if name.endswith("down_proj"):
            assert (a.shape[1], b.shape[0]) == (size.intermediate_size, size.hidden_size)
        assert b.abs().max() > 0  # trained
