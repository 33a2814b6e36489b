"""What the table promises of each family holds in transformers, and everything else is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from focusdoc.errors import UnsupportedModelError
from focusdoc.modeling.families import (
    FAMILIES,
    attention_layers,
    check_supported,
    projection_modules,
    projection_shapes,
    projection_weight,
)

ModelMaker = Callable[..., nn.Module]
every_family = pytest.mark.parametrize("family", sorted(FAMILIES))


def packed_linear(out_features: int, in_features: int, *, bias: bool) -> tuple[nn.Module, torch.Tensor]:
    """A GGUF linear layer whose weight stays in Q8_0 blocks, and the matrix it stands for."""
    import gguf
    from transformers.integrations.gguf.utils import GgufLinear

    kind = gguf.GGMLQuantizationType.Q8_0
    blocks = gguf.quants.quantize(torch.randn(out_features, in_features).numpy(), kind)
    layer = GgufLinear(in_features, out_features, int(kind), bias=bias)
    layer.weight.data = torch.from_numpy(blocks)
    if bias:
        layer.bias.data = torch.randn(out_features)
    return layer, torch.from_numpy(gguf.quants.dequantize(blocks, kind))


@every_family
class TestEveryFamily:
    def test_is_known_by_model_and_by_config(self, family: str, make_model: ModelMaker) -> None:
        model = make_model(family)
        check_supported(model)
        check_supported(model.config)

    def test_attention_layers_come_in_order(self, family: str, make_model: ModelMaker) -> None:
        assert [layer.layer_idx for layer in attention_layers(make_model(family))] == [0, 1]

    def test_shapes_are_those_of_the_weights(self, family: str, make_model: ModelMaker) -> None:
        model = make_model(family)
        shapes = projection_shapes(model)
        assert list(shapes) == [f"layers.{i}.{letter}" for i in range(2) for letter in "qkvo"]
        for name, module in projection_modules(model).items():
            assert shapes[name] == tuple(module.weight.shape)

    def test_shapes_are_known_without_linear_layers(self, family: str, make_model: ModelMaker) -> None:
        model = make_model(family)
        expected = projection_shapes(model)
        for layer in attention_layers(model):
            for letter in "qkvo":
                setattr(layer, f"{letter}_proj", nn.Identity())
        assert projection_shapes(model) == expected

    def test_a_keyword_of_forward_reaches_the_attention_of_every_layer(
        self, family: str, make_model: ModelMaker
    ) -> None:
        model = make_model(family)
        reached = []

        def attention(
            module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **kwargs: Any
        ) -> tuple[torch.Tensor, None]:
            reached.append((module.layer_idx, kwargs["focus"]))
            assert query.shape == (1, 4, 5, module.head_dim)
            assert key.shape == value.shape == (1, 2, 5, module.head_dim)
            scores = query @ key.repeat_interleave(2, dim=1).mT * kwargs["scaling"]
            scores = scores.masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), float("-inf"))
            return (scores.softmax(-1) @ value.repeat_interleave(2, dim=1)).transpose(1, 2), None

        ids = torch.arange(5)[None]
        with torch.no_grad():
            expected = model(ids).logits
            transformers.AttentionInterface.register("families-test", attention)
            transformers.AttentionMaskInterface.register("families-test", lambda *args, **kwargs: None)
            model.set_attn_implementation("families-test")
            found = model(ids, focus="layout", use_cache=False).logits
        assert reached == [(0, "layout"), (1, "layout")]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("rope_type", ["default", "linear", "llama3", "yarn"])
    def test_only_distances_of_positions_count(self, family: str, rope_type: str, make_model: ModelMaker) -> None:
        """What re-rotation of keys rests on: rotary positions are relative in every layer."""
        scaled = {"rope_type": rope_type, "rope_theta": 10000.0, "factor": 4.0}
        if rope_type == "llama3":
            scaled |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 128}
        if rope_type == "yarn":
            scaled |= {"original_max_position_embeddings": 128}
        if family == "gemma3_text":
            scaled = {"full_attention": scaled, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}
        model = make_model(family, rope_parameters=scaled)
        check_supported(model)
        ids = torch.arange(9)[None]
        with torch.no_grad():
            near, far = (model(ids, position_ids=torch.arange(9)[None] + start).logits for start in (0, 200))
        torch.testing.assert_close(near, far, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("rope_type", ["dynamic", "longrope", "proportional"])
    def test_rope_that_depends_on_the_length_is_refused(
        self, family: str, rope_type: str, make_model: ModelMaker
    ) -> None:
        config = make_model(family).config
        parameters: dict[str, Any] = {"rope_type": rope_type, "rope_theta": 10000.0, "factor": 2.0}
        config.rope_parameters = (
            {"full_attention": parameters, "sliding_attention": None} if family == "gemma3_text" else parameters
        )
        with pytest.raises(UnsupportedModelError, match=f"RoPE of type '{rope_type}'.*default, linear, llama3, yarn"):
            check_supported(config)


class TestRefusedByName:
    @pytest.mark.parametrize(
        ("config_class", "says"),
        [
            ("Phi3Config", r"Phi3Config \(phi3\) is not supported: .*fused qkv_proj"),
            ("GPT2Config", r"GPT2Config \(gpt2\) is not supported: .*fused c_attn"),
            ("MambaConfig", r"MambaConfig \(mamba\) is not supported: it has no attention"),
            ("T5Config", r"T5Config \(t5\) is not supported: it is an encoder-decoder"),
            ("Gemma3Config", r"Gemma3Config \(gemma3\) is not supported: .*google/gemma-3-1b-it"),
            ("SmolLM3Config", r"\(smollm3\) is not supported: .*no rotary positions"),
            ("BertConfig", r"BertConfig \(bert\) is not supported\."),
        ],
    )
    def test_architecture(self, config_class: str, says: str) -> None:
        config = getattr(transformers, config_class)()
        with pytest.raises(UnsupportedModelError, match=says + r".*gemma3_text, granite, llama, mistral"):
            check_supported(config)

    def test_model_by_its_class(self) -> None:
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=32))
        with pytest.raises(UnsupportedModelError, match=r"GPT2LMHeadModel \(gpt2\)"):
            attention_layers(model)

    def test_config_by_the_architecture_it_names(self) -> None:
        with pytest.raises(UnsupportedModelError, match=r"OPTForCausalLM \(opt\)"):
            check_supported(transformers.OPTConfig(architectures=["OPTForCausalLM"]))

    def test_partial_rotary(self, make_model: ModelMaker) -> None:
        config = make_model("llama").config
        config.rope_parameters = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
        with pytest.raises(UnsupportedModelError, match=r"partial_rotary_factor 0\.5"):
            check_supported(config)

    def test_bidirectional_attention(self, make_model: ModelMaker) -> None:
        config = make_model("gemma3_text", use_bidirectional_attention=True).config
        with pytest.raises(UnsupportedModelError, match="both directions"):
            check_supported(config)

    def test_layers_of_different_sizes(self, make_model: ModelMaker) -> None:
        config = make_model("llama").config
        config.per_layer_config = {1: {"num_key_value_heads": 1}}
        with pytest.raises(UnsupportedModelError, match="layers of different sizes"):
            check_supported(config)

    def test_what_is_no_model(self) -> None:
        with pytest.raises(UnsupportedModelError, match="Linear is no transformers model"):
            check_supported(nn.Linear(2, 2))
        with pytest.raises(UnsupportedModelError, match="SimpleNamespace is no transformers model"):
            check_supported(SimpleNamespace())

    def test_a_layer_without_its_projections(self, make_model: ModelMaker) -> None:
        model = make_model("llama")
        del attention_layers(model)[1].v_proj
        with pytest.raises(UnsupportedModelError, match=r"Layer 1 of LlamaForCausalLM has no self_attn\.v_proj"):
            attention_layers(model)


class TestProjectionWeight:
    @pytest.mark.parametrize("bias", [False, True])
    def test_of_a_linear_layer_is_a_copy_in_its_own_dtype(self, bias: bool) -> None:
        linear = nn.Linear(6, 4, bias=bias, dtype=torch.bfloat16)
        weight = projection_weight(linear, 6, torch.float32)
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, linear.weight)
        assert weight.data_ptr() != linear.weight.data_ptr()
        assert not weight.requires_grad

    @pytest.mark.parametrize("bias", [False, True])
    def test_of_a_packed_layer_is_what_it_computes(self, bias: bool) -> None:
        layer, matrix = packed_linear(48, 64, bias=bias)
        weight = projection_weight(layer, 64, torch.float32)
        assert weight.shape == (48, 64)
        torch.testing.assert_close(weight, matrix, rtol=0, atol=1e-6)

    def test_of_a_wrapped_layer_in_bfloat16(self) -> None:
        class Wrapped(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = nn.Linear(6, 4, dtype=torch.bfloat16)
                self.weight = self.inner.weight

            def forward(self, hidden: torch.Tensor) -> torch.Tensor:
                return 2 * self.inner(hidden)

        wrapped = Wrapped()
        nn.init.zeros_(wrapped.inner.bias)
        assert torch.equal(projection_weight(wrapped, 6, torch.bfloat16), 2 * wrapped.inner.weight)
