"""A chat over a tiny random model with candidate weights of its own: chunks of 64 bytes, a window of 512."""

from __future__ import annotations

from typing import Any

import pytest

from focusdoc import Chat, FocusConfig, FocusEngine
from focusdoc.modeling.base import BaseModel
from tiny_models import random_adapter, tiny_model


@pytest.fixture(scope="session")
def tiny_engine(tiny_tokenizer: Any) -> FocusEngine:
    model = tiny_model("llama", vocab_size=len(tiny_tokenizer), max_position_embeddings=2048)
    base = BaseModel(model, tiny_tokenizer, "tiny")
    adapter = random_adapter(model)
    return FocusEngine(base, adapter, FocusConfig(chunk_size=64, local_window=512))


@pytest.fixture
def chat(tiny_engine: FocusEngine) -> Chat:
    """A chat that remembers nothing yet."""
    return Chat(tiny_engine, max_memory_bytes=10_000_000)
