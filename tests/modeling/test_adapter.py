"""Adapters: saved and loaded unchanged, checked against the base model weight by weight, never unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from focusdoc.errors import AdapterError, UnsupportedModelError
from focusdoc.modeling import adapter_files
from focusdoc.modeling.adapter import Adapter, AdapterConfig, base_model_name, check_adapter, untrained_adapter
from focusdoc.modeling.adapter_files import (
    from_official_names,
    load_adapter,
    save_adapter,
    shipped_adapter_path,
    shipped_chunk_size,
    to_official_names,
)
from focusdoc.modeling.families import FAMILIES, projection_modules, projection_shapes
from focusdoc.modeling.fingerprint import fingerprint

ModelMaker = Callable[..., nn.Module]


@pytest.fixture
def model(make_model: ModelMaker) -> nn.Module:
    return make_model("llama")


@pytest.fixture
def adapter(model: nn.Module) -> Adapter:
    return untrained_adapter(model)


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "adapter.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


class TestUntrained:
    @pytest.mark.parametrize("family", sorted(FAMILIES))
    def test_copies_the_base_projections(self, family: str, make_model: ModelMaker) -> None:
        model = make_model(family)
        adapter = untrained_adapter(model)
        for name, module in projection_modules(model).items():
            assert torch.equal(adapter.weights[f"{name}.weight"], module.weight)
        check_adapter(adapter, model)

    def test_says_that_it_is_untrained_and_of_which_model(self, model: nn.Module) -> None:
        model.config._name_or_path = "someone/tiny-llama"
        config = untrained_adapter(model).config
        assert config.training == {"untrained": True}
        assert (config.base_model, config.base_fingerprint) == ("someone/tiny-llama", fingerprint(model))
        assert (config.num_layers, config.hidden_size, config.projections) == (2, 32, list("qkvo"))

    def test_shares_no_memory_with_the_model(self, model: nn.Module, adapter: Adapter) -> None:
        before = fingerprint(model)
        for weight in adapter.weights.values():
            weight.zero_()
        assert fingerprint(model) == before

    @pytest.mark.parametrize(("asked", "got"), [("kv", ["k", "v"]), ("oq", ["q", "o"]), (["v"], ["v"])])
    def test_of_some_projections(self, asked: str, got: list[str], model: nn.Module) -> None:
        adapter = untrained_adapter(model, asked)
        assert adapter.config.projections == got
        assert set(adapter.weights) == {f"layers.{i}.{letter}.weight" for i in range(2) for letter in got}
        assert list(adapter.of_layer(1)) == got
        check_adapter(adapter, model)

    @pytest.mark.parametrize("asked", ["", "qx", []])
    def test_of_unknown_projections(self, asked: str, model: nn.Module) -> None:
        with pytest.raises(AdapterError, match="choose letters of 'qkvo'"):
            untrained_adapter(model, asked)

    def test_of_an_unsupported_model(self) -> None:
        gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=32))
        with pytest.raises(UnsupportedModelError, match="gpt2"):
            untrained_adapter(gpt2)


class TestBaseModelName:
    def test_is_the_hub_name_or_the_folders(self, model: nn.Module, tmp_path: Path) -> None:
        assert base_model_name(model) == "LlamaForCausalLM"
        model.config._name_or_path = "org/name"
        assert base_model_name(model) == "org/name"
        model.config._name_or_path = str(tmp_path / "my-model")
        assert base_model_name(model) == "my-model"


class TestSaveAndLoad:
    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        projections=st.sets(st.sampled_from("qkvo"), min_size=1).map(sorted),
        chunk_size=st.none() | st.integers(1, 10**6),
        local_attention=st.sampled_from(["incremental", "refresh"]),
        candidate_positions=st.sampled_from(["sequential", "shared"]),
        dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
        training=st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.floats(-1, 1)), max_size=3),
    )
    def test_nothing_changes_on_the_way(
        self, tmp_path: Path, projections: list[str], dtype: torch.dtype, **fields: Any
    ) -> None:
        config = AdapterConfig(base_model="base", projections=projections, num_layers=3, hidden_size=4, **fields)
        weights = {
            f"layers.{i}.{letter}.weight": torch.randn(4, 4).to(dtype) for i in range(3) for letter in projections
        }
        save_adapter(Adapter(config, weights), tmp_path / "adapter")
        loaded = load_adapter(tmp_path / "adapter")
        assert loaded.config == config
        assert loaded.weights.keys() == weights.keys()
        for name, weight in weights.items():
            assert loaded.weights[name].dtype == dtype
            assert torch.equal(loaded.weights[name], weight)

    def test_the_folder_holds_two_files_that_say_what_they_are(self, adapter: Adapter, tmp_path: Path) -> None:
        folder = save_adapter(adapter, tmp_path / "adapter")
        assert folder == tmp_path / "adapter"
        assert sorted(path.name for path in folder.iterdir()) == ["adapter.json", "adapter.safetensors"]
        written = json.loads((folder / "adapter.json").read_text())
        assert (written["format_version"], written["local_attention"]) == (1, "incremental")
        with safe_open(folder / "adapter.safetensors", framework="pt") as file:
            assert file.metadata() == {"format": "focusdoc", "format_version": "1"}

    def test_whoever_may_read_the_description_may_read_the_weights(self, adapter: Adapter, tmp_path: Path) -> None:
        modes = {path.stat().st_mode for path in save_adapter(adapter, tmp_path / "adapter").iterdir()}
        assert len(modes) == 1

    def test_replaces_an_older_adapter(self, model: nn.Module, adapter: Adapter, tmp_path: Path) -> None:
        save_adapter(untrained_adapter(model, "kv"), tmp_path / "adapter")
        save_adapter(adapter, tmp_path / "adapter")
        assert load_adapter(tmp_path / "adapter", model).config == adapter.config
        assert list(tmp_path.iterdir()) == [tmp_path / "adapter"]

    def test_an_older_adapter_survives_a_failure(
        self, adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_adapter(adapter, tmp_path / "adapter")

        def full_disk(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space"):
            save_adapter(adapter, tmp_path / "adapter")
        assert load_adapter(tmp_path / "adapter").config == adapter.config
        assert list(tmp_path.iterdir()) == [tmp_path / "adapter"]

    def test_never_removes_what_is_not_an_adapter(self, adapter: Adapter, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("years of work")
        with pytest.raises(AdapterError, match=r"holds other files \(thesis\.txt\)"):
            save_adapter(adapter, tmp_path)
        with pytest.raises(AdapterError, match="is a file; name a folder"):
            save_adapter(adapter, tmp_path / "thesis.txt")
        assert (tmp_path / "thesis.txt").read_text() == "years of work"

    def test_an_incomplete_adapter_is_not_saved(self, adapter: Adapter, tmp_path: Path) -> None:
        del adapter.weights["layers.1.v.weight"]
        with pytest.raises(AdapterError, match=r"layers\.1\.v\.weight is missing"):
            save_adapter(adapter, tmp_path / "adapter")
        assert list(tmp_path.iterdir()) == []

    def test_views_and_parameters_can_be_saved(self, adapter: Adapter, tmp_path: Path) -> None:
        stacked = torch.randn(2, 32, 32)
        adapter.weights["layers.0.q.weight"] = stacked[0]
        adapter.weights["layers.1.q.weight"] = nn.Parameter(stacked[1].T)
        loaded = load_adapter(save_adapter(adapter, tmp_path / "adapter"))
        assert torch.equal(loaded.weights["layers.1.q.weight"], stacked[1].T)

    def test_odd_values_in_the_record_do_not_lose_the_weights(self, adapter: Adapter, tmp_path: Path) -> None:
        adapter.config.training = {"loss": float("nan"), "data": Path("books"), "device": torch.device("cpu")}
        loaded = load_adapter(save_adapter(adapter, tmp_path / "adapter"))
        assert loaded.config.training == {"loss": None, "data": "books", "device": "cpu"}


class TestDamaged:
    @pytest.fixture
    def folder(self, adapter: Adapter, tmp_path: Path) -> Path:
        return save_adapter(adapter, tmp_path / "adapter")

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(AdapterError, match=r"no adapter at .*nowhere; pass"):
            load_adapter(tmp_path / "nowhere")

    def test_folder_of_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "README.md").write_text("")
        with pytest.raises(AdapterError, match=r"holds no adapter; expected adapter\.json and adapter\.safetensors"):
            load_adapter(tmp_path)

    @pytest.mark.parametrize("name", ["adapter.json", "adapter.safetensors"])
    def test_one_file_missing(self, name: str, folder: Path) -> None:
        (folder / name).unlink()
        with pytest.raises(AdapterError, match=rf"incomplete: {name} is missing"):
            load_adapter(folder)

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
    def test_json_damaged(self, content: bytes, folder: Path) -> None:
        (folder / "adapter.json").write_bytes(content)
        with pytest.raises(AdapterError, match=r"adapter\.json is damaged"):
            load_adapter(folder)

    @pytest.mark.parametrize("content", ["[]", "{}", '"text"'])
    def test_json_of_something_else(self, content: str, folder: Path) -> None:
        (folder / "adapter.json").write_text(content)
        with pytest.raises(AdapterError, match=r"no description of an adapter: it has no format_version"):
            load_adapter(folder)

    def test_later_format(self, folder: Path) -> None:
        edit_config(folder, format_version=2, new_field="?")
        with pytest.raises(AdapterError, match=r"format_version 2, this focusdoc reads 1; update focusdoc"):
            load_adapter(folder)

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"chunk_size": 0}, "chunk_size: Input should be greater than or equal to 1"),
            ({"local_attention": "sometimes"}, "local_attention: Input should be 'incremental' or 'refresh'"),
            ({"candidate_positions": "none"}, "candidate_positions: Input should be 'sequential' or 'shared'"),
            ({"projections": []}, "projections: List should have at least 1 item"),
            ({"projections": ["w"]}, r"projections\.0: Input should be 'q'"),
            ({"num_layers": "many"}, "num_layers: Input should be a valid integer"),
            ({"alpha": 8}, "alpha: Extra inputs are not permitted"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_fields_out_of_range(self, changes: dict[str, Any], says: str, folder: Path) -> None:
        edit_config(folder, **changes)
        with pytest.raises(AdapterError, match=f"adapter.json is not valid: {says}"):
            load_adapter(folder)

    @pytest.mark.parametrize("keep", [0, 5, 1000])
    def test_weights_cut_off(self, keep: int, folder: Path) -> None:
        file = folder / "adapter.safetensors"
        file.write_bytes(file.read_bytes()[:keep])
        with pytest.raises(AdapterError, match=r"adapter\.safetensors are damaged or unreadable"):
            load_adapter(folder)

    def test_weights_that_the_description_does_not_declare(self, folder: Path) -> None:
        edit_config(folder, projections=["q", "k", "v"])
        with pytest.raises(AdapterError, match=r"do not belong to it: layers\.0\.o\.weight, layers\.1\.o\.weight"):
            load_adapter(folder)

    def test_one_file_of_the_folder_instead_of_the_folder(self, folder: Path) -> None:
        with pytest.raises(AdapterError, match=r"one file of an adapter; pass its folder"):
            load_adapter(folder / "adapter.safetensors")
        with pytest.raises(AdapterError, match="no safetensors file"):
            load_adapter(folder / "adapter.json")

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter.pt", "adapter.pth", "x.ckpt", "x.pkl"])
    def test_pickles_are_never_opened(self, name: str, tmp_path: Path) -> None:
        torch.save({"model.layers.0.self_attn.beacon_q_proj.weight": torch.zeros(2, 2)}, tmp_path / name)
        for path in (tmp_path / name, tmp_path):
            with pytest.raises(AdapterError, match=rf"{name} is a pickle.*convert it to safetensors"):
                load_adapter(path)


class TestCheck:
    def test_an_adapter_of_this_model_fits(self, model: nn.Module, adapter: Adapter) -> None:
        check_adapter(adapter, model)
        check_adapter(adapter, model.to(torch.bfloat16))

    def test_missing_tensors(self, model: nn.Module, adapter: Adapter) -> None:
        for letter in "qkvo":
            del adapter.weights[f"layers.1.{letter}.weight"]
        with pytest.raises(AdapterError, match=r"layers\.1\.k\.weight, .* and 1 more is missing.*all of its 2 layers"):
            check_adapter(adapter, model)

    def test_unexpected_tensor(self, model: nn.Module, adapter: Adapter) -> None:
        adapter.weights["layers.0.gate.weight"] = torch.zeros(2, 2)
        with pytest.raises(AdapterError, match=r"do not belong to it: layers\.0\.gate\.weight"):
            check_adapter(adapter, model)

    def test_wrong_shape(self, model: nn.Module, adapter: Adapter) -> None:
        adapter.weights["layers.1.k.weight"] = torch.zeros(32, 32)
        with pytest.raises(AdapterError, match=r"layers\.1\.k\.weight has shape \[32, 32\], but .* needs \[16, 32\]"):
            check_adapter(adapter, model)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_not_finite(self, value: float, model: nn.Module, adapter: Adapter) -> None:
        adapter.weights["layers.0.o.weight"][3, 4] = value
        with pytest.raises(AdapterError, match=r"layers\.0\.o\.weight holds values that are not finite"):
            check_adapter(adapter, model)

    def test_whole_numbers(self, model: nn.Module, adapter: Adapter) -> None:
        adapter.weights["layers.0.o.weight"] = torch.zeros(32, 32, dtype=torch.int8)
        with pytest.raises(AdapterError, match=r"layers\.0\.o\.weight holds torch\.int8"):
            check_adapter(adapter, model)

    def test_another_number_of_layers(self, make_model: ModelMaker, adapter: Adapter) -> None:
        with pytest.raises(AdapterError, match="has 2 layers, but LlamaForCausalLM has 3"):
            check_adapter(adapter, make_model("llama", num_hidden_layers=3))

    def test_made_for_another_base_model(self, make_model: ModelMaker) -> None:
        first, second = make_model("llama"), make_model("llama", seed=1)
        first.config._name_or_path, second.config._name_or_path = "org/first", "org/second"
        adapter = untrained_adapter(first)
        ours, theirs = fingerprint(first)[:12], fingerprint(second)[:12]
        says = rf"made for org/first \(fingerprint {ours}\), not for org/second \(fingerprint {theirs}\)"
        with pytest.raises(AdapterError, match=says):
            check_adapter(adapter, second)
        with pytest.raises(AdapterError, match=says):
            check_adapter(adapter, second, model_fingerprint=fingerprint(second))

    def test_load_checks_when_it_gets_the_model(self, make_model: ModelMaker, adapter: Adapter, tmp_path: Path) -> None:
        folder = save_adapter(adapter, tmp_path / "adapter")
        with pytest.raises(AdapterError, match="not for"):
            load_adapter(folder, make_model("llama", seed=1))


class TestOfficialNames:
    """Checkpoints of the paper's authors, paper_mode section 0."""

    @pytest.fixture
    def base(self, golden: Path) -> nn.Module:
        loaded: nn.Module = transformers.AutoModelForCausalLM.from_pretrained(golden / "model")
        return loaded

    def test_the_golden_checkpoint_loads(self, golden: Path, base: nn.Module) -> None:
        file = golden / "candidate_official_names.safetensors"
        adapter = load_adapter(file, base)
        config = adapter.config
        assert (config.local_attention, config.candidate_positions) == ("refresh", "sequential")
        assert (config.base_fingerprint, config.num_layers, config.hidden_size) == (None, 4, 64)
        assert config.projections == ["q", "k", "v", "o"]
        assert adapter.weights.keys() == {f"{name}.weight" for name in projection_shapes(base)}
        raw = load_file(file)
        expected = raw["model.layers.3.self_attn.beacon_k_proj.weight"]
        assert torch.equal(adapter.weights["layers.3.k.weight"], expected)

    def test_names_go_there_and_back(self, golden: Path) -> None:
        raw = load_file(golden / "candidate_official_names.safetensors")
        official = to_official_names(from_official_names(raw))
        assert official.keys() == raw.keys()
        assert all(torch.equal(official[name], raw[name]) for name in raw)

    def test_a_full_checkpoint_in_shards(self, golden: Path, base: nn.Module, tmp_path: Path) -> None:
        candidates = load_file(golden / "candidate_official_names.safetensors")
        base_weights = {name: weight.clone() for name, weight in base.state_dict().items()}
        embed = {"model.beacon_embed_tokens.weight": torch.zeros(1, 64)}
        names = sorted(candidates)
        shards = ({name: candidates[name] for name in part} for part in (names[:7], names[7:]))
        save_file(base_weights | embed | next(shards), tmp_path / "model-00001-of-00002.safetensors")
        save_file(next(shards), tmp_path / "model-00002-of-00002.safetensors")
        (tmp_path / "training_args.bin").write_bytes(b"")  # beside safetensors, a pickle does no harm
        adapter = load_adapter(tmp_path, base)
        assert to_official_names(adapter).keys() == candidates.keys()

    @pytest.mark.parametrize("letters", ["qkv", "o"])
    def test_some_projections(self, letters: str, golden: Path, base: nn.Module) -> None:
        raw = load_file(golden / "candidate_official_names.safetensors")
        some = {name: raw[name] for name in raw if any(f"beacon_{letter}_" in name for letter in letters)}
        adapter = from_official_names(some, base_model="authors")
        assert (adapter.config.projections, adapter.config.hidden_size) == (list(letters), 64)
        assert adapter.config.base_model == "authors"
        check_adapter(adapter, base)

    def test_a_gap_in_the_layers(self, golden: Path, tmp_path: Path) -> None:
        raw = load_file(golden / "candidate_official_names.safetensors")
        del raw["model.layers.1.self_attn.beacon_v_proj.weight"]
        save_file(raw, tmp_path / "x.safetensors")
        with pytest.raises(AdapterError, match=r"x\.safetensors: .*layers\.1\.v\.weight is missing"):
            load_adapter(tmp_path / "x.safetensors")

    @pytest.mark.parametrize(
        ("name", "tensor"),
        [
            ("model.layers.0.self_attn.beacon_q_proj.bias", torch.zeros(4)),
            ("model.layers.0.mlp.beacon_up_proj.weight", torch.zeros(4, 4)),
            ("model.layers.0.self_attn.beacon_q_proj.weight", torch.zeros(4)),
        ],
    )
    def test_candidates_of_another_kind(self, name: str, tensor: Tensor) -> None:
        with pytest.raises(AdapterError, match="is no candidate projection that focusdoc knows"):
            from_official_names({name: tensor})

    def test_a_plain_checkpoint(self, golden: Path) -> None:
        with pytest.raises(AdapterError, match=r"no candidate projections .* among the tensors"):
            load_adapter(golden / "model")

    def test_a_model_of_other_sizes(self, golden: Path, model: nn.Module) -> None:
        with pytest.raises(AdapterError, match=r"made for unknown\) has 4 layers, but LlamaForCausalLM has 2"):
            load_adapter(golden / "candidate_official_names.safetensors", model)


def test_shipped_adapters_are_found_by_fingerprint(
    make_model: ModelMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_files, "SHIPPED_FOLDER", tmp_path)
    models = [make_model("llama", seed=seed) for seed in range(3)]
    for index, model in enumerate(models[:2]):
        save_adapter(untrained_adapter(model, "k"), tmp_path / f"model-{index}")
    assert shipped_adapter_path(fingerprint(models[1])) == tmp_path / "model-1"
    assert shipped_adapter_path(fingerprint(models[2])) is None


def test_every_shipped_adapter_can_be_read() -> None:
    for file in adapter_files.SHIPPED_FOLDER.glob("*/adapter.json"):
        adapter = load_adapter(file.parent)
        assert "untrained" not in adapter.config.training
        assert adapter.config.base_fingerprint is not None
        assert shipped_adapter_path(adapter.config.base_fingerprint) is not None


def test_the_chunk_size_of_a_shipped_adapter_is_known_by_the_models_name() -> None:
    for file in sorted(adapter_files.SHIPPED_FOLDER.glob("*/adapter.json")):
        config = json.loads(file.read_text())
        assert shipped_chunk_size(config["base_model"]) == config["chunk_size"]
    assert shipped_chunk_size("another model") is None


def test_a_file_that_names_a_layer_far_away_is_refused_at_once() -> None:
    tensors = {"model.layers.99999999.self_attn.beacon_q_proj.weight": torch.zeros(2, 2)}
    with pytest.raises(AdapterError, match="1 tensors for 100,000,000 layers"):
        from_official_names(tensors)
