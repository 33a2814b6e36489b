"""The engines of the evaluation modes, all over one base model and adapter, and their entries in a configuration."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from focusdoc.config import FocusConfig
from focusdoc.decoding.prompt import bos_prefix, encode_text, question_prompt
from focusdoc.engine import FocusEngine
from focusdoc.errors import ConfigError
from focusdoc.evaluation.item import ModeSettings
from focusdoc.modeling.adapter import Adapter
from focusdoc.readers import Reader


def focus_engine(engine: FocusEngine, settings: ModeSettings) -> FocusEngine:
    """`engine` with the chunk size and local window of `settings`; requires an adapter."""
    engine.require_adapter()
    return asking_engine(engine, settings)


def asking_engine(engine: FocusEngine, settings: ModeSettings, *, reader: Reader | None = None) -> FocusEngine:
    """`engine` with the chunk size and local window of `settings` and with `reader`; its condensing is unchanged."""
    size = settings.chunk_size or engine.chunk_size
    config = replace(engine.config, chunk_size=size, local_window=settings.local_window)
    return FocusEngine(engine.base, engine.adapter, config, store=engine.store, reader=reader)


def look_engine(engine: FocusEngine, settings: ModeSettings) -> FocusEngine:
    """An engine without candidates over the same base model, which uses its retrieval heads."""
    size, window = settings.chunk_size or engine.chunk_size, settings.local_window
    config = FocusConfig(condensing="look", heads=engine.config.heads, local_window=window, chunk_size=size)
    return FocusEngine(engine.base, None, config, store=engine.store)


def paper_engine(engine: FocusEngine, settings: ModeSettings) -> FocusEngine:
    """An engine with the settings of the paper's code over the same base model and adapter."""
    engine.require_adapter()
    config = FocusConfig.paper(local_window=settings.local_window, chunk_size=settings.chunk_size or 2048)
    return FocusEngine(engine.base, engine.adapter, config)


def model_facts(engine: FocusEngine) -> dict[str, Any]:
    """The entries of a configuration that identify the base model."""
    dtype = str(engine.base.dtype).removeprefix("torch.")
    return {"model": engine.base.name, "fingerprint": engine.base.fingerprint[:12], "dtype": dtype}


def engine_facts(engine: FocusEngine) -> dict[str, Any]:
    """The entries of a configuration that identify an engine: model, adapter weights and settings."""
    settings = asdict(engine.config)
    del settings["chunk_batch"], settings["read_batch"]  # they change only speed and memory
    return {**model_facts(engine), "adapter": adapter_digest(engine.adapter), **settings}


def adapter_digest(adapter: Adapter | None) -> str | None:
    """The first 12 hex digits of a hash of the adapter's weights; None without an adapter."""
    if adapter is None:
        return None
    digest = hashlib.sha256()
    for name in sorted(adapter.weights):
        digest.update(name.encode())
        digest.update(adapter.weights[name].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def prompt_ids(engine: FocusEngine, text: str, *, chat: bool) -> list[int]:
    """Token ids of a prompt, as a chat message (if the tokenizer has a chat template) or as bare text."""
    with engine.base.tokenizer_lock:
        tokenizer = tokenizer_of(engine)
        return question_prompt(tokenizer, text) if chat else bos_prefix(tokenizer) + encode_text(tokenizer, text)


def text_of(engine: FocusEngine, token_ids: Sequence[int], stops: Sequence[str]) -> str:
    """The text of new tokens, up to the first stop string."""
    text = str(tokenizer_of(engine).decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    for stop in stops:
        text = text.partition(stop)[0]
    return text


def count_tokens(engine: FocusEngine, text: str) -> int:
    """The number of tokens of a bare text."""
    with engine.base.tokenizer_lock:
        return len(encode_text(tokenizer_of(engine), text))


def tokenizer_of(engine: FocusEngine) -> Any:
    """The tokenizer of a model; ConfigError if it has none."""
    if engine.base.tokenizer is None:
        raise ConfigError(
            f"{engine.base.name} has no tokenizer, which benchmarks need; put it into the model's folder."
        )
    return engine.base.tokenizer
