"""The fingerprint names a base model's function: equal for equal weights, different for any change of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from focusdoc.errors import UnsupportedModelError
from focusdoc.modeling.families import FAMILIES
from focusdoc.modeling.fingerprint import fingerprint

ModelMaker = Callable[..., nn.Module]


def test_is_a_sha256_and_repeatable(make_model: ModelMaker) -> None:
    first = fingerprint(make_model("llama"))
    assert len(first) == 64
    assert int(first, 16) >= 0
    assert fingerprint(make_model("llama")) == first


def test_is_the_same_after_saving_and_loading(make_model: ModelMaker, tmp_path: Path) -> None:
    model = make_model("llama")
    model.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert fingerprint(loaded) == fingerprint(model)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_float32_weights_loaded_in_bfloat16_are_the_same(family: str, make_model: ModelMaker) -> None:
    assert fingerprint(make_model(family).to(torch.bfloat16)) == fingerprint(make_model(family))


def test_bfloat16_weights_are_the_same_in_every_dtype(make_model: ModelMaker) -> None:
    model = make_model("llama").to(torch.bfloat16)
    with torch.no_grad():  # tiny values, some of which float16 cannot hold
        weight = model.model.layers[0].mlp.up_proj.weight
        weight.copy_(2.0 ** -torch.linspace(5, 30, weight.numel()).reshape(weight.shape))
    expected = fingerprint(model)
    assert fingerprint(model.to(torch.float32)) == expected
    assert fingerprint(model.to(torch.float16)) == expected


def test_changes_with_any_tensor(make_model: ModelMaker) -> None:
    model = make_model("qwen2")
    seen = {fingerprint(model)}
    for _, parameter in model.named_parameters():
        with torch.no_grad():
            parameter.mul_(1.01)
        seen.add(fingerprint(model))
    assert len(seen) == 1 + len(list(model.parameters()))


@pytest.mark.parametrize(
    "change",
    [
        {"rms_norm_eps": 1e-3},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 20000.0}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
        {"hidden_act": "gelu"},
        {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4},
    ],
    ids=lambda change: next(iter(change)),
)
def test_changes_with_what_shapes_the_function(change: dict[str, object], make_model: ModelMaker) -> None:
    assert fingerprint(make_model("llama", **change)) != fingerprint(make_model("llama"))


def test_changes_with_the_pattern_of_sliding_windows(make_model: ModelMaker) -> None:
    model = make_model("gemma3_text")
    before = fingerprint(model)
    model.config.layer_types = ["full_attention", "full_attention"]
    assert fingerprint(model) != before


@pytest.mark.parametrize(
    "change",
    [
        {"max_position_embeddings": 8192},
        {"use_cache": False},
        {"eos_token_id": 5},
        {"attention_dropout": 0.1},
        {"rms_norm_eps": 9.999999747378752e-07},  # 1e-6 as a GGUF file holds it
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000, "note": "new"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_does_not_change_with_what_does_not(change: dict[str, object], make_model: ModelMaker) -> None:
    assert fingerprint(make_model("llama", **change)) == fingerprint(make_model("llama"))


def test_packed_weights_are_another_function(make_model: ModelMaker) -> None:
    model = make_model("llama")
    before = fingerprint(model)
    projection = model.model.layers[0].self_attn.q_proj
    projection.weight = nn.Parameter(torch.zeros(32, 36, dtype=torch.uint8), requires_grad=False)
    assert fingerprint(model) != before


def test_offloaded_weights_are_refused_by_name(make_model: ModelMaker) -> None:
    model = make_model("llama")
    model.model.norm.to("meta")
    with pytest.raises(UnsupportedModelError, match=r"model\.norm\.weight is not in memory.*without disk offload"):
        fingerprint(model)


def test_reads_few_elements_of_large_tensors(make_model: ModelMaker) -> None:
    model = make_model("llama", vocab_size=100_000, hidden_size=256, intermediate_size=4096)  # 60M parameters
    fingerprint(model)
    start = time.perf_counter()
    fingerprint(model)
    assert time.perf_counter() - start < 0.5
