"""One chat for each way of loading, made when it is first needed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from focusdoc import FocusConfig
from focusdoc.chat.shared import LazyChat, clear_shared_chats, shared_chat
from focusdoc.errors import ModelNotFoundError


@pytest.fixture(autouse=True)
def _own_cache() -> Iterator[None]:
    clear_shared_chats()
    yield
    clear_shared_chats()


def test_the_same_settings_give_the_same_chat_and_load_nothing(tmp_path: Path) -> None:
    one, two = shared_chat(tmp_path), shared_chat(str(tmp_path))
    assert one is two
    assert not one.is_loaded
    other = FocusConfig(chunk_size=99)
    assert shared_chat(tmp_path, config=other) is shared_chat(tmp_path, config=FocusConfig(chunk_size=99))
    assert shared_chat(tmp_path, config=other) is not one
    assert shared_chat(tmp_path, store=None) is not one


def test_clearing_forgets(tmp_path: Path) -> None:
    one = shared_chat(tmp_path)
    clear_shared_chats()
    assert shared_chat(tmp_path) is not one


def test_threads_that_come_together_make_one(chat: Any) -> None:
    made = []
    gate = threading.Barrier(4)

    def make() -> Any:
        made.append(1)
        return chat

    lazy = LazyChat(make)

    def work() -> None:
        gate.wait()
        assert lazy.get() is chat

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]


def test_a_model_that_is_not_there_is_told_when_it_is_needed(tmp_path: Path) -> None:
    lazy = shared_chat(tmp_path / "missing")
    with pytest.raises(ModelNotFoundError, match="missing"):
        lazy.get()
