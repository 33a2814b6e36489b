"""The dimensions of a base model, which determine its costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """The dimensions that determine a model's costs; `tied`: whether the output layer is tied to the embedding."""

    name: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    tied: bool
    dtype: str

    @classmethod
    def of(cls, config: Mapping[str, Any], name: str, dtype: str) -> ModelSize:
        """From a transformers config; KeyError, TypeError or ValueError if a dimension is missing, or is no number."""
        heads = int(config["num_attention_heads"])
        return cls(
            name=name,
            num_layers=int(config["num_hidden_layers"]),
            hidden_size=int(config["hidden_size"]),
            intermediate_size=int(config["intermediate_size"]),
            num_heads=heads,
            num_kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
            vocab_size=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            dtype=dtype,
        )

    @property
    def bytes_per_weight(self) -> int:
        """Bytes of one number of `dtype`."""
        return 4 if self.dtype == "float32" else 2

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token over all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.bytes_per_weight

    @property
    def num_bytes(self) -> int:
        """Bytes of all weights except the norms."""
        attention = 2 * self.hidden_size * self.head_dim * (self.num_heads + self.num_kv_heads)
        layers = self.num_layers * (attention + 3 * self.hidden_size * self.intermediate_size)
        embeddings = (1 if self.tied else 2) * self.vocab_size * self.hidden_size
        return (layers + embeddings) * self.bytes_per_weight
