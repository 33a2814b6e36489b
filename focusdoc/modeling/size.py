"""The size of a base model and this machine's reading speed, estimated without the weights."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

from focusdoc.errors import ModelNotFoundError
from focusdoc.modeling.catalogue import DEFAULT_MODEL, known_model
from focusdoc.modeling.dimensions import ModelSize
from focusdoc.storage import expanded

#: Speed of a whole model relative to the bare layer timed here: norms, rotation and copies take the rest.
_READING_EFFICIENCY = 0.7
#: Duration of the timing in seconds.
_TIMING_SECONDS = 0.3
#: Chunk size without an adapter or setting.
CHUNK_TOKENS = 2048


def model_size(model: str | None) -> ModelSize:
    """The dimensions of a base model from the catalogue or its folder's ``config.json``; None for the default model.

    Raises:
        ModelNotFoundError: there is no such file, or it lacks a dimension.
    """
    model = model or DEFAULT_MODEL
    if (known := known_model(model)) is not None:
        return known.size
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


def default_placement(size: ModelSize) -> tuple[str, ModelSize]:
    """The device that "auto" chooses, and the model in the dtype that it is loaded in there."""
    import torch

    if torch.cuda.is_available():
        return "cuda", size
    return "cpu", replace(size, dtype="float32") if size.dtype == "float16" else size


def estimate_seconds_per_token(
    size: ModelSize, device: str, *, chunk_size: int = CHUNK_TOKENS, budget: float = _TIMING_SECONDS
) -> float:
    """Estimated seconds to read a token, from timing one layer of the model's shapes with dummy weights.

    Args:
        chunk_size: tokens read together.
        budget: duration of the timing in seconds; the layer runs at least once.
    """
    import torch
    from torch.nn.functional import linear, scaled_dot_product_attention, silu

    dtype = getattr(torch, size.dtype, torch.float32)

    def filled(*shape: int) -> torch.Tensor:
        return torch.full(shape, 0.01, device=device, dtype=dtype)

    heads = filled(1, size.num_heads, chunk_size, size.head_dim)
    rows = filled(chunk_size, size.hidden_size)
    attention = filled((2 * size.num_heads + 2 * size.num_kv_heads) * size.head_dim, size.hidden_size)
    gate, up = (filled(size.intermediate_size, size.hidden_size) for _ in range(2))

    def layer() -> None:
        linear(rows, attention)
        scaled_dot_product_attention(heads, heads, heads, is_causal=True)
        linear(silu(linear(rows, gate)) * linear(rows, up), up.T)
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    layer()  # warm-up
    count, started_at = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started_at) < budget or not count:
        layer()
        count += 1
    return seconds / (count * chunk_size) * size.num_layers / _READING_EFFICIENCY
