"""What the evaluation modes share: their engines over one base model and adapter, prompts, and configurations."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, Generic, TypeVar

from focusdoc.config import FocusConfig
from focusdoc.decoding.prompt import bos_prefix, encode_text, question_prompt, tokenizer_of
from focusdoc.engine import FocusEngine
from focusdoc.evaluation.item import ModeSettings
from focusdoc.readers import Reader
from focusdoc.readers.reading import BUDGET

T = TypeVar("T")


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
    """The entries of a configuration that identify an engine: model, adapter weights, settings and reader."""
    settings = asdict(engine.config)
    del settings["chunk_batch"], settings["read_batch"]  # they change only speed and memory
    reader = {} if engine.reader is None else reader_facts(engine.reader)
    adapter = None if engine.adapter is None else engine.adapter.digest()[:12]
    return {**model_facts(engine), "adapter": adapter, **settings, **reader}


def reader_facts(reader: Reader) -> dict[str, Any]:
    """The entries of a configuration that identify a reader, and the tokens of its passages."""
    lora = getattr(reader, "lora", None)
    return {"reader": reader.name, "budget": BUDGET, **({} if lora is None else {"lora": lora.fingerprint})}


def prompt_ids(engine: FocusEngine, text: str, *, chat: bool) -> list[int]:
    """Token ids of a prompt, as a chat message (if the tokenizer has a chat template) or as bare text."""
    with engine.base.tokenizer_lock:
        tokenizer = tokenizer_of(engine.base)
        return question_prompt(tokenizer, text) if chat else bos_prefix(tokenizer) + encode_text(tokenizer, text)


def text_of(engine: FocusEngine, token_ids: Sequence[int], stops: Sequence[str]) -> str:
    """The text of new tokens, up to the first stop string."""
    tokenizer = tokenizer_of(engine.base)
    text = str(tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    for stop in stops:
        text = text.partition(stop)[0]
    return text


def count_tokens(engine: FocusEngine, text: str) -> int:
    """The number of tokens of a bare text."""
    with engine.base.tokenizer_lock:
        return len(encode_text(tokenizer_of(engine.base), text))


class LastDocument(Generic[T]):
    """What `make` returns for the last document, which consecutive items share."""

    def __init__(self, make: Callable[[str], T]) -> None:
        self._make = make
        self._known: tuple[str, T] | None = None

    def of(self, document: str) -> tuple[T, float]:
        """What was made of a document, made now unless it is the last one, and the seconds that took."""
        start = time.perf_counter()
        if self._known is None or self._known[0] != document:
            self._known = None  # freed before the next one is made
            self._known = document, self._make(document)
        return self._known[1], time.perf_counter() - start
