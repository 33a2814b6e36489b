"""The dimensions of a base model, and how fast this machine would read with it, told without its weights."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from focusdoc.errors import ModelNotFoundError
from focusdoc.modeling.default_model import DEFAULT_MODEL
from focusdoc.storage import expanded

#: Share of the speed of the bare layer that is timed here which a whole model reaches: norms, rotation, copies.
_READING_EFFICIENCY = 0.7
#: Seconds that the timing takes.
_TIMING_SECONDS = 0.3
#: Tokens of a chunk where no adapter or setting says.
CHUNK_TOKENS = 2048


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """The dimensions of a base model that its costs follow from.

    Attributes:
        tied: whether the embedding serves as the output layer too. dtype: as torch names it.
    """

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
        """The dimensions in a model's configuration, under the names that transformers uses.

        Raises:
            KeyError, TypeError, ValueError: it lacks one, or one is no number.
        """
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
        """Bytes of all weights but the norms'."""
        attention = 2 * self.hidden_size * self.head_dim * (self.num_heads + self.num_kv_heads)
        layers = self.num_layers * (attention + 3 * self.hidden_size * self.intermediate_size)
        embeddings = (1 if self.tied else 2) * self.vocab_size * self.hidden_size
        return (layers + embeddings) * self.bytes_per_weight


#: The embedded default, which may not be converted yet.
DEFAULT_SIZE = ModelSize(
    name=DEFAULT_MODEL,
    num_layers=30,
    hidden_size=576,
    intermediate_size=1536,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    vocab_size=49152,
    tied=True,
    dtype="bfloat16",
)


def model_size(model: str | None) -> ModelSize:
    """The dimensions of a base model, from the ``config.json`` in its folder; None is the embedded default.

    Raises:
        ModelNotFoundError: there is no such file, or it lacks a dimension.
    """
    if model is None or model == DEFAULT_MODEL:
        return DEFAULT_SIZE
    file = expanded(model) / "config.json"
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        config = {**config, **config.get("text_config", {})}
        dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
        return ModelSize.of(config, file.parent.resolve().name, dtype)
    except OSError as error:
        raise ModelNotFoundError(
            f"There is no base model in {model!r} ({error.strerror}: config.json); give the folder it lies in."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelNotFoundError(f"{str(file)!r} does not describe a language model ({error!r}).") from None


def where_it_runs(size: ModelSize) -> tuple[str, ModelSize]:
    """The device that would be taken, and the model in the dtype that it would be loaded in there."""
    import torch

    if torch.cuda.is_available():
        return "cuda", size
    return "cpu", replace(size, dtype="float32") if size.dtype == "float16" else size


def estimate_seconds_per_token(
    size: ModelSize, device: str, *, chunk_size: int = CHUNK_TOKENS, budget: float = _TIMING_SECONDS
) -> float:
    """The seconds that reading a token will take: those of one layer of its shapes, on weights that mean nothing.

    Args:
        chunk_size: tokens read together.
        budget: seconds that the timing goes on; the layer is timed once at least.
    """
    import torch
    from torch.nn.functional import linear, scaled_dot_product_attention, silu

    dtype = getattr(torch, size.dtype, torch.float32)

    def some(*shape: int) -> torch.Tensor:
        return torch.full(shape, 0.01, device=device, dtype=dtype)

    heads = some(1, size.num_heads, chunk_size, size.head_dim)
    rows = some(chunk_size, size.hidden_size)
    attention = some((2 * size.num_heads + 2 * size.num_kv_heads) * size.head_dim, size.hidden_size)
    gate, up = (some(size.intermediate_size, size.hidden_size) for _ in range(2))

    def layer() -> None:
        linear(rows, attention)
        scaled_dot_product_attention(heads, heads, heads, is_causal=True)
        linear(silu(linear(rows, gate)) * linear(rows, up), up.T)
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    layer()  # the first one prepares
    count, begun = 0, time.perf_counter()
    while (seconds := time.perf_counter() - begun) < budget or not count:
        layer()
        count += 1
    return seconds / (count * chunk_size) * size.num_layers / _READING_EFFICIENCY
