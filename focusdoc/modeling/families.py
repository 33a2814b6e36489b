"""The supported model families, and where their projections are.

A family is supported if its decoder layers have q, k, v and o as four separate linear layers, call transformers'
attention interface (passing on keywords of the model's forward), and rotate whole heads with standard RoPE, so that a
cached key can be moved to another position. No modeling file is copied: these names are all there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from focusdoc.errors import UnsupportedModelError

#: The projections by letter, in the order of the paper's W_Q^c, W_K^c, W_V^c, W_O^c: the attributes of a self-attention
#: module that hold them.
PROJECTIONS: Mapping[str, str] = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}
#: The attributes of a gated MLP that hold its two projections of the input, its output projection and its activation.
GATE_AND_UP, DOWN, ACTIVATION = ("gate_proj", "up_proj"), "down_proj", "act_fn"
#: The attribute of a decoder layer that holds its self-attention module.
_ATTENTION = "self_attn"
#: RoPE variants whose frequencies do not depend on the input's length: moving a key is another rotation.
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
#: The supported families by ``config.model_type``, each tested on a tiny random model; all use the names above.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "olmo2", "granite")

#: Why well-known architectures are not supported, and what to use instead.
_REASONS = {
    "phi3": "it keeps q, k and v in one fused qkv_proj",
    "gpt2": "it keeps q, k and v in one fused c_attn",
    "gpt_neox": "it keeps q, k and v in one fused query_key_value",
    "falcon": "it keeps q, k and v in one fused query_key_value",
    "mamba": "it has no attention",
    "smollm3": "some of its layers have no rotary positions",
    "gemma3": (
        "it takes images as well; choose a text-only Gemma 3 (such as google/gemma-3-1b-it), or save its language "
        "model alone as a Gemma3ForCausalLM checkpoint"
    ),
}


def check_supported(config_or_model: Any) -> None:
    """Raise UnsupportedModelError, which lists what is supported, for any other architecture or RoPE variant.

    Args:
        config_or_model: a config or model of transformers.
    """
    config = getattr(config_or_model, "config", config_or_model)
    model_type = getattr(config, "model_type", None)
    if not isinstance(model_type, str):
        raise UnsupportedModelError(
            f"{type(config_or_model).__name__} is no transformers model or config; pass one of {_supported()}."
        )
    name = _architecture(config_or_model, config)
    if model_type not in FAMILIES:
        reason = _REASONS.get(model_type)
        if reason is None and getattr(config, "is_encoder_decoder", False):
            reason = "it is an encoder-decoder"
        because = f": {reason}" if reason else ""
        raise UnsupportedModelError(f"{name} is not supported{because}. Supported model types: {_supported()}.")
    if getattr(config, "use_bidirectional_attention", False):
        raise UnsupportedModelError(
            f"{name} attends in both directions (use_bidirectional_attention); choose a decoder that is causal."
        )
    if getattr(config, "is_heterogeneous", False):
        raise UnsupportedModelError(
            f"{name} has layers of different sizes (per_layer_config); choose a model whose layers are alike."
        )
    _check_rope(name, config)


def attention_layers(model: nn.Module) -> list[nn.Module]:
    """The self-attention module of every decoder layer, in layer order.

    Raises:
        UnsupportedModelError: the architecture is not supported, or a layer lacks a projection.
    """
    check_supported(model)
    config: Any = model.config
    decoder: Any = model.get_decoder()  # type: ignore[operator]  # a method of transformers' models
    modules: list[nn.Module] = []
    for index, layer in enumerate(decoder.layers):
        attention: Any = getattr(layer, _ATTENTION, None)
        for attribute in PROJECTIONS.values():
            if not isinstance(getattr(attention, attribute, None), nn.Module):
                raise UnsupportedModelError(
                    f"Layer {index} of {type(model).__name__} has no {_ATTENTION}.{attribute}; load the model "
                    f"as transformers' own class for {config.model_type}."
                )
        modules.append(attention)
    return modules


def projection_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Every base projection by the name ``layers.{i}.{q|k|v|o}``, layer by layer; raises as `attention_layers`."""
    return {
        f"layers.{index}.{letter}": getattr(attention, attribute)
        for index, attention in enumerate(attention_layers(model))
        for letter, attribute in PROJECTIONS.items()
    }


def projection_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """The (out_features, in_features) of every projection by the name ``layers.{i}.{q|k|v|o}``.

    They follow from the config; the tensors of quantized weights (GGUF, 4 bits) have other shapes. Raises as
    `attention_layers`.
    """
    names = list(projection_modules(model))
    config: Any = model.config
    hidden: int = config.hidden_size
    head_dim = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    queries, keys = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    by_letter = {"q": (queries, hidden), "k": (keys, hidden), "v": (keys, hidden), "o": (hidden, queries)}
    return {name: by_letter[name[-1]] for name in names}


@torch.no_grad()
def projection_weight(module: nn.Module, in_features: int, dtype: torch.dtype) -> Tensor:
    """A copy of a projection's weight, [out_features, in_features], for any kind of linear layer.

    Args:
        in_features: the width of the projection's input.
        dtype: dtype of the result for quantized weights; an ``nn.Linear`` keeps its own.
    """
    weight = getattr(module, "weight", None)
    if type(module) is nn.Linear and not module.weight.is_meta:
        return module.weight.detach().clone()
    # Quantized or adapted: recover the effective weight by feeding unit vectors.
    device = weight.device if isinstance(weight, Tensor) and not weight.is_meta else torch.device("cpu")
    compute_dtype = weight.dtype if isinstance(weight, Tensor) and weight.dtype in _PLAIN_DTYPES else torch.float32
    units_and_zero = torch.eye(in_features + 1, in_features, dtype=compute_dtype, device=device)
    computed: Tensor = module(units_and_zero)
    columns = computed[:-1] - computed[-1]  # the zero row gives the bias
    return columns.T.to(dtype).contiguous()


_PLAIN_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def _check_rope(name: str, config: Any) -> None:
    """Refuse RoPE variants under which a cached key cannot be moved by one rotation."""
    given = getattr(config, "rope_parameters", None) or {}
    # One set of parameters, or one for each layer type (Gemma 3).
    sets = [value for value in given.values() if value is not None]
    per_type = given and all(isinstance(value, Mapping) for value in sets)
    for parameters in sets if per_type else [given]:
        rope_type = parameters.get("rope_type", "default")
        if rope_type not in ROPE_TYPES:
            raise UnsupportedModelError(
                f"{name} uses RoPE of type {rope_type!r}, under which a cached key cannot be moved; "
                f"supported types: {', '.join(ROPE_TYPES)}."
            )
        rotated = parameters.get("partial_rotary_factor", getattr(config, "partial_rotary_factor", None))
        if rotated is not None and rotated != 1.0:
            raise UnsupportedModelError(
                f"{name} rotates only a part of each head (partial_rotary_factor {rotated}); "
                "choose a model that rotates whole heads."
            )


def _architecture(config_or_model: Any, config: Any) -> str:
    """The model class and type for messages, ``GPT2LMHeadModel (gpt2)``."""
    named = getattr(config, "architectures", None) if config is config_or_model else None
    return f"{(named or [type(config_or_model).__name__])[0]} ({config.model_type})"


def _supported() -> str:
    return ", ".join(sorted(FAMILIES))
