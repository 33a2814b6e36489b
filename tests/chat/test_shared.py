"""One chat for each way of loading, made when it is first needed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from focusdoc import Document, FocusConfig, FocusEngine
from focusdoc.chat.shared import LazyChat, clear_shared_chats, shared_chat
from focusdoc.cluster import ray_holders
from focusdoc.cluster.spread import shares_of
from focusdoc.errors import ConfigError, MemoryMismatchError, ModelNotFoundError
from holders_here import open_here
from scripted_reader import ScriptedReader
from tiny_models import save_tiny


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


def test_no_model_is_not_a_model_called_none() -> None:
    assert shared_chat(None) is not shared_chat("None")


def test_readers_that_are_named_make_chats_of_their_own(tmp_path: Path) -> None:
    told = {"reader": "http://127.0.0.1:9/v1", "reader_model": "m"}
    one = shared_chat(tmp_path, **told)
    assert one is shared_chat(tmp_path, **told)
    assert len({id(one), *(id(shared_chat(tmp_path, **more)) for more in ({}, told | {"reader_model": "n"}))}) == 3


def test_chats_with_and_without_readers_share_one_model_and_its_memories(
    chat: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def load(*_: Any, **__: Any) -> Any:
        loaded.append(1)
        return chat.engine

    monkeypatch.setattr(FocusEngine, "from_pretrained", load)
    readers = [ScriptedReader("x"), ScriptedReader("y")]
    alone = shared_chat("model")
    lazy = [shared_chat("model", reader=reader) for reader in readers]
    assert not any(one.is_loaded for one in lazy)
    chats = [alone.get(), *(one.get() for one in lazy)]
    assert all(one.is_loaded for one in lazy)
    assert loaded == [1]
    assert [one.engine.reader for one in chats] == [None, *readers]
    assert len({id(one.pool) for one in chats}) == 1


def test_clusters_make_chats_of_their_own(tmp_path: Path) -> None:
    named = {where: shared_chat(tmp_path, cluster=where) for where in (None, 2, 3, "auto")}
    assert len({id(one) for one in named.values()}) == 4
    assert named[None] is shared_chat(tmp_path)
    assert named[2] is shared_chat(tmp_path, cluster=2) is shared_chat(tmp_path, cluster="2")


def test_a_cluster_answers_as_one_process_and_keeps_its_memories_to_itself(
    tmp_path: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_holders, "open_cluster", open_here)
    settings = {**save_tiny(tmp_path, tiny_tokenizer), "config": FocusConfig(chunk_size=16, local_window=512)}
    document = Document.from_text("The gold was stolen by Anna. She lives in Oslo. " * 10)  # 31 chunks, 4 parts
    alone, spread = shared_chat(**settings).get(), shared_chat(**settings, cluster=2).get()
    wanted, found = (chat.ask([document], "Who stole the gold?", max_new_tokens=12) for chat in (alone, spread))
    assert found.text == wanted.text != ""
    assert [source.text for source in found.sources] == [source.text for source in wanted.sources] != []
    assert alone.engine.cluster is None
    assert spread.engine.cluster is not None
    memory, encoded = spread.read(document)
    assert encoded == 0
    assert len(shares_of(spread.engine.cluster, memory.blocks)) == 2
    with pytest.raises(MemoryMismatchError):
        alone.engine.ask(memory, "Who?")
    told = shared_chat(**settings, cluster=2, reader=ScriptedReader("x")).get()
    assert told.engine.cluster is spread.engine.cluster
    assert told.pool is spread.pool is not alone.pool


def test_a_model_for_no_endpoint_is_refused(chat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FocusEngine, "from_pretrained", lambda *_, **__: chat.engine)
    with pytest.raises(ConfigError, match="reader_model is 'm', but reader= names no endpoint"):
        shared_chat("model", reader_model="m").get()


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
