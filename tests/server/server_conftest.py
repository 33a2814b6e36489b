"""A real server on loopback over the tiny model, and the clients that people use."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from focusdoc import Chat, FocusConfig, FocusEngine
from focusdoc.modeling.base import BaseModel
from focusdoc.server.app import ServerSettings, create_app
from focusdoc.server.files import FileStore
from focusdoc.server.library import Library
from tiny_models import random_adapter, tiny_model

#: The fixture that starts a server; returns the base URL for clients.
Serve = Callable[..., str]
MAX_BYTES = 1 << 20


@pytest.fixture(scope="session")
def tiny_engine(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> FocusEngine:
    model = tiny_model("llama", vocab_size=len(tiny_tokenizer), max_position_embeddings=4096)
    base = BaseModel(model, tiny_tokenizer, "tiny")
    return FocusEngine(base, random_adapter(model), FocusConfig(chunk_size=64, local_window=512))


@pytest.fixture
def serve(tiny_engine: FocusEngine, tmp_path: Path) -> Iterator[Serve]:
    """`serve(chat=..., keys=...)`: a server in a thread of this process, ended after the test."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(
        chat: Callable[[], Chat] = lambda: Chat(tiny_engine, 10_000_000),
        wait: bool = True,
        folder: Path = tmp_path / "files",
        **settings: Any,
    ) -> str:
        library = Library(FileStore(folder, MAX_BYTES), chat)
        app = create_app(library, ServerSettings(**settings), "tiny")
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=5))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        running.append((server, thread))
        until(lambda: server.started and (library.is_ready or not wait))
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()


def until(is_so: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)
