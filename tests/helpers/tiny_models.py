"""Tiny random models and candidate weights that differ from the base's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from focusdoc import FocusConfig, FocusEngine
from focusdoc.modeling.adapter import Adapter, untrained_adapter
from focusdoc.modeling.adapter_files import save_adapter
from focusdoc.modeling.base import BaseModel
from focusdoc.modeling.finding_weights import FindingWeights

CLASSES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {}),
    "mistral": ("MistralConfig", "MistralForCausalLM", {"head_dim": 16, "sliding_window": None}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {"head_dim": 16}),
    "gemma3_text": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {
            "head_dim": 16,
            "sliding_window": 512,
            "layer_types": ["sliding_attention", "full_attention"],
            "final_logit_softcapping": 3.0,
        },
    ),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", {}),
    "granite": (
        "GraniteConfig",
        "GraniteForCausalLM",
        {"attention_multiplier": 0.2, "residual_multiplier": 0.5, "logits_scaling": 4.0},
    ),
}


def tiny_model(family: str = "llama", **overrides: Any) -> Any:
    """A random model of 2 layers, 4 query and 2 KV heads; the same for the same arguments."""
    config_class, model_class, special = CLASSES[family]
    sizes = {
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "attn_implementation": "eager",
    }
    config = getattr(transformers, config_class)(**{**sizes, **special, **overrides})
    torch.manual_seed(0)
    model = getattr(transformers, model_class)(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # norms of 1 and biases of 0 would hide mistakes
            if parameter.ndim == 1:
                nn.init.normal_(parameter, mean=0.0 if name.endswith("bias") else 1.0, std=0.1)
            elif parameter.ndim == 2:
                parameter.mul_(4)  # initialised so small that attention would be almost uniform
    return model.eval()


def random_weights(model: Any, seed: int = 7) -> list[dict[str, Tensor]]:
    """Candidate weights of every layer, unlike the base's."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for layer in model.get_decoder().layers:
        shapes = {letter: getattr(layer.self_attn, f"{letter}_proj").weight.shape for letter in "qkvo"}
        layers.append({letter: torch.randn(shape, generator=generator) * 0.15 for letter, shape in shapes.items()})
    return layers


def random_adapter(model: Any) -> Adapter:
    """An adapter of `random_weights`."""
    adapter = untrained_adapter(model)
    for layer, weights in enumerate(random_weights(model)):
        for letter, weight in weights.items():
            adapter.weights[f"layers.{layer}.{letter}.weight"] = weight
    return adapter


def random_finding(model: Any, seed: int = 3, rank: int = 2) -> FindingWeights:
    """Finding weights for `random_adapter`, unlike zero."""
    generator = torch.Generator().manual_seed(seed)
    added = {}
    for layer, weights in enumerate(random_weights(model)):
        for letter, (rows, columns) in ((letter, weight.shape) for letter, weight in weights.items()):
            added[f"layers.{layer}.{letter}.a"] = torch.randn(rank, columns, generator=generator) * 0.2
            added[f"layers.{layer}.{letter}.b"] = torch.randn(rows, rank, generator=generator) * 0.2
    config = model.config
    head_dim = config.hidden_size // config.num_attention_heads
    heads = torch.rand(config.num_hidden_layers, config.num_attention_heads, generator=generator)
    relevance = torch.randn(config.num_hidden_layers, config.num_key_value_heads, head_dim, generator=generator)
    return FindingWeights(added, heads, relevance, (1.5, 0.8, 3.0))


def save_tiny(folder: Path, tokenizer: Any) -> dict[str, str]:
    """Write a tiny Llama that reads and writes by `tokenizer`, and a random adapter; returns the settings for both."""
    model = tiny_model("llama", vocab_size=len(tokenizer), max_position_embeddings=2048)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    save_adapter(random_adapter(model), folder / "adapter")
    return {"model": str(folder / "model"), "adapter": str(folder / "adapter")}


def tiny_engine(tokenizer: Any, config: FocusConfig) -> FocusEngine:
    """A tiny Llama of 1,024 positions with a random adapter, that reads and writes by `tokenizer`."""
    base = BaseModel(tiny_model("llama", vocab_size=len(tokenizer), max_position_embeddings=1024), tokenizer)
    return FocusEngine(base, random_adapter(base.model), config)
