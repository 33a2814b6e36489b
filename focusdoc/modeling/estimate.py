"""Estimates without loading a model, offline: the tokens of a text, a model's size, and this machine's speed."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from focusdoc.errors import ModelNotFoundError
from focusdoc.modeling.catalogue import DEFAULT_MODEL, known_model
from focusdoc.modeling.dimensions import ModelSize
from focusdoc.modeling.installed import converted_folder
from focusdoc.storage import expanded

#: Models with this in their name are related to the default model, and mostly share its vocabulary.
_DEFAULT_FAMILY = "smollm2"
#: Rule of thumb for English and code: characters per token.
_ASCII_PER_TOKEN = 4.2
#: For other scripts: UTF-8 bytes per token (a Chinese character has three).
_BYTES_PER_TOKEN = 3.0
#: Characters tokenized at a time, to bound the memory.
_PIECE = 100_000
#: Speed of a whole model relative to the bare layer timed here: norms, rotation and copies take the rest.
_READING_EFFICIENCY = 0.7
#: Duration of the timing in seconds.
_TIMING_SECONDS = 0.3
#: Chunk size without an adapter or setting.
CHUNK_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class TokenEstimate:
    """A number of tokens, and in words how it was estimated and how accurate it is."""

    num_tokens: int
    method: str


def estimate_tokens(text: str, model: str | None = None) -> TokenEstimate:
    """Count or estimate the tokens of `text` (special tokens are plain text) for a model's name or folder."""
    plain = text.encode("utf-8", "replace").decode("utf-8")
    file, method = _tokenizer_file(model), "counted with the model's own tokenizer"
    if file is None and _DEFAULT_FAMILY in str(model).lower():
        file, method = _tokenizer_file(None), "estimated with the default model's tokenizer"
    if file is not None:
        with contextlib.suppress(Exception):  # a damaged file is reported when the model is loaded
            tokenizer = _tokenizer(file, file.stat().st_mtime_ns)
            pieces = (tokenizer.encode_batch_fast([piece], add_special_tokens=False) for piece in _pieces(plain))
            return TokenEstimate(sum(len(encoded.ids) for (encoded,) in pieces), method)
    num_ascii = len(plain.encode("ascii", "ignore"))
    other_bytes = len(plain.encode("utf-8")) - num_ascii
    guess = round(num_ascii / _ASCII_PER_TOKEN + other_bytes / _BYTES_PER_TOKEN)
    method = (
        f"rule of thumb ({_ASCII_PER_TOKEN} ASCII characters, or {_BYTES_PER_TOKEN:g} bytes of other scripts, a "
        "token); expect 30% more or less"
    )
    return TokenEstimate(max(guess, 1 if text else 0), method)


def _tokenizer_file(model: str | None) -> Path | None:
    """The model's own tokenizer on this machine: in its folder, or in the cache for a converted catalogue model."""
    known = known_model(model or DEFAULT_MODEL)
    folder = Path(str(model)) if known is None else converted_folder(known)
    file = folder / "tokenizer.json" if folder else None
    return file if file and file.is_file() else None


@lru_cache(maxsize=1)
def _tokenizer(file: Path, _changed: int) -> Any:
    """The tokenizer in a file, without truncation, treating special tokens as plain text; `_changed` keys the cache."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces that end before a space if possible, so that no word is split."""
    start = 0
    while start < len(text):
        end = start + _PIECE
        if end < len(text):
            space = text.rfind(" ", start + 1, end)
            end = space if space > 0 else end
        yield text[start:end]
        start = end


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
        budget: seconds of the timing; the layer runs at least once.
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
