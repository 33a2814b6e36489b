"""``focusdoc info``: what a document will cost, told before any model is loaded."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any

import typer
from rich.text import Text

from focusdoc.cli import options
from focusdoc.cli.display import errors, output, page_ranges
from focusdoc.cli.loading import open_document
from focusdoc.documents import Document, estimate_tokens
from focusdoc.errors import ModelNotFoundError
from focusdoc.modeling.default_model import DEFAULT_MODEL
from focusdoc.terminal import plain

#: Share of the speed of the bare layer that is timed here which a whole model reaches: norms, rotation, copies.
_READING_EFFICIENCY = 0.7
#: Seconds that the timing takes.
_TIMING_SECONDS = 0.3
#: Tokens in the timed layer: a chunk.
_TIMED_TOKENS = 2048


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


def info(
    file: options.File,
    model: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="A base model's folder; without it, the built-in SmolLM2-135M-Instruct."),
    ] = None,
    password: options.Password = None,
    json_output: options.Json = False,
) -> None:
    """Tell pages, characters and tokens of a document, and the memory and time that reading it will take."""
    size = model_size(model)
    document = open_document(file, password)
    with errors.status("Counting tokens and measuring this machine"):
        tokens = estimate_tokens(document.text, model)
        device, size = where_it_runs(size)
        seconds = time_layer(size, device)
    facts = {
        "document": {
            "name": document.name,
            "title": document.metadata.get("title"),
            "format": document.metadata.get("format"),
            "pages": len(document.pages) if document.has_pages else None,
            "pages_without_text": document.metadata.get("pages_without_text", []),
            "characters": len(document.text),
            "warnings": document.metadata.get("warnings", []),
        },
        "tokens": tokens.num_tokens,
        "tokens_method": tokens.method,
        "model": size.name,
        "model_bytes": size.num_bytes,
        "memory_bytes_per_token": size.kv_bytes_per_token,
        "memory_bytes": tokens.num_tokens * size.kv_bytes_per_token,
        "read_seconds": tokens.num_tokens * size.num_layers * seconds / _READING_EFFICIENCY,
        "device": device,
    }
    if json_output:
        print(json.dumps(facts, indent=2))
    else:
        _show(document, facts, size)


def model_size(model: str | None) -> ModelSize:
    """The dimensions of a base model, from the ``config.json`` in its folder; None is the embedded default.

    Raises:
        ModelNotFoundError: there is no such file, or it lacks a dimension.
    """
    if model is None or model == DEFAULT_MODEL:
        return DEFAULT_SIZE
    file = Path(model).expanduser() / "config.json"
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        config = {**config, **config.get("text_config", {})}
        heads = int(config["num_attention_heads"])
        dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
        return ModelSize(
            name=file.parent.resolve().name,
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


def time_layer(size: ModelSize, device: str) -> float:
    """The seconds that one token takes in one layer of the model's shapes, on weights that mean nothing."""
    import torch
    from torch.nn.functional import linear, scaled_dot_product_attention, silu

    dtype = getattr(torch, size.dtype, torch.float32)

    def some(*shape: int) -> torch.Tensor:
        return torch.full(shape, 0.01, device=device, dtype=dtype)

    heads = some(1, size.num_heads, _TIMED_TOKENS, size.head_dim)
    rows = some(_TIMED_TOKENS, size.hidden_size)
    attention = some((2 * size.num_heads + 2 * size.num_kv_heads) * size.head_dim, size.hidden_size)
    gate, up = (some(size.intermediate_size, size.hidden_size) for _ in range(2))

    def layer() -> None:
        linear(rows, attention)
        scaled_dot_product_attention(heads, heads, heads, is_causal=True)
        linear(silu(linear(rows, gate)) * linear(rows, up), up.T)
        if device == "cuda":
            torch.cuda.synchronize()

    layer()  # the first one prepares
    count, begun = 0, time.perf_counter()
    while (seconds := time.perf_counter() - begun) < _TIMING_SECONDS or not count:
        layer()
        count += 1
    return seconds / (count * _TIMED_TOKENS)


def _show(document: Document, facts: dict[str, Any], size: ModelSize) -> None:
    known = facts["document"]
    without = known["pages_without_text"]
    pages = "none (a plain text)" if known["pages"] is None else f"{known['pages']:,}"
    if without:
        pages += f", {len(without):,} without text ({page_ranges(without)})"
    kind = {"pdf": "PDF", "markdown": "Markdown"}.get(str(known["format"]), "plain text")
    rows = [
        ("document", f"{known['name']} ({kind})"),
        ("title", known["title"]),
        ("pages", pages),
        ("characters", f"{known['characters']:,}"),
        ("tokens", f"{facts['tokens']:,}, {facts['tokens_method']}"),
        (
            "memory",
            f"{in_bytes(facts['memory_bytes'])} while it is asked ({facts['memory_bytes_per_token']:,} bytes a token), "
            f"beside {in_bytes(facts['model_bytes'])} of weights",
        ),
        ("time to read", f"about {in_time(facts['read_seconds'])} on this {_DEVICES[facts['device']]}, once"),
        ("model", size.name),
        *(("warning", shorten(warning, 100, placeholder=" ...")) for warning in known["warnings"]),
    ]
    for name, value in rows:
        if value:
            line = Text(f"{name:<13}", style="bold")
            output.print(line.append(plain(str(value)).replace("\n", " "), style="not bold"), soft_wrap=True)


_DEVICES = {"cpu": "processor", "cuda": "GPU"}


def in_bytes(count: float) -> str:
    """A number of bytes in words, in powers of 1,000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit in ("bytes", "kB") or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def in_time(seconds: float) -> str:
    """A rough duration in words."""
    if seconds < 1:
        return "1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
