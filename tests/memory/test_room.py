"""A document that does not fit into memory is refused before it is read."""

from __future__ import annotations

from typing import Any

import pytest

from focusdoc import Document, FocusConfig, FocusEngine
from focusdoc.errors import MemoryShortageError
from focusdoc.memory import room
from focusdoc.modeling.base import BaseModel
from tiny_models import tiny_model


@pytest.fixture
def engine(tiny_tokenizer: Any) -> FocusEngine:
    model = tiny_model("llama", vocab_size=len(tiny_tokenizer), max_position_embeddings=1024)
    return FocusEngine(BaseModel(model, tiny_tokenizer, "tiny"), None, FocusConfig(chunk_size=64, condensing="none"))


def test_what_fits_is_read(engine: FocusEngine) -> None:
    assert engine.read(Document.from_text("word " * 100)).num_tokens == 500


def test_what_does_not_fit_is_refused_with_the_bytes_needed_and_free(
    engine: FocusEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    per_token = engine.base.kv_bytes_per_token
    monkeypatch.setattr(room, "free_bytes", lambda _: room.SPARE_BYTES + 499 * per_token)
    passes: list[int] = []
    monkeypatch.setattr(engine.base, "run", lambda *_, **__: passes.append(1))
    with pytest.raises(MemoryShortageError, match=rf"'big.*' needs {500 * per_token:,} bytes.*at most 499 tokens"):
        engine.read(Document.from_text("word " * 100, {"name": "big.txt"}))
    assert not passes


def test_the_free_bytes_of_this_machine_are_known(engine: FocusEngine) -> None:
    assert room.free_bytes(engine.base.device) > 1 << 20
