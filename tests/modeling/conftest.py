"""Tiny random models of every supported family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tiny_models import CLASSES

ModelMaker = Callable[..., nn.Module]

SIZES = {
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
}


def _make(family: str = "llama", *, seed: int = 0, **overrides: Any) -> nn.Module:
    import transformers

    config_class, model_class, special = CLASSES[family]
    config = getattr(transformers, config_class)(**{**SIZES, **special, **overrides})
    torch.manual_seed(seed)
    model: nn.Module = getattr(transformers, model_class)(config)
    for name, parameter in model.named_parameters():  # norms of 1 and biases of 0 would hide mistakes
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=0.0 if name.endswith("bias") else 1.0, std=0.1)
    return model.eval()


@pytest.fixture
def make_model() -> ModelMaker:
    """`make_model(family, seed=..., **config_overrides)`: a random model of 2 layers, 4 query and 2 KV heads."""
    return _make


@pytest.fixture
def golden() -> Path:
    """The folder of the golden cases: a tiny model and candidate projections under the authors' names."""
    return Path(__file__).parent.parent / "golden"
