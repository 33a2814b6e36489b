"""Many threads over several documents: each is read once, nobody waits for another's, and waiting can be cancelled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from focusdoc import Chat, Document, FocusConfig, FocusEngine
from focusdoc.chat.threads import ReadingCancelledError, TextLocks
from focusdoc.modeling.base import BaseModel
from tiny_models import random_adapter, tiny_model

DOCUMENTS = [
    Document.from_text(" ".join(f"In {town} house {number} is blue." for number in range(30)), {"name": town})
    for town in ("Oslo", "Riga", "Lima", "Bonn", "Bern")
]


def in_threads(*works: Callable[[], object]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


class Held:
    """Stops the reading of one document in its middle until it is let go."""

    def __init__(self, engine: FocusEngine, name: str, patch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        read = engine.read

        def held(document: Any, **settings: Any) -> Any:
            if document.name == name:
                self.begun.set()
                assert self.go_on.wait(30)
            return read(document, **settings)

        patch.setattr(engine, "read", held)


@pytest.fixture
def cold(tiny_tokenizer: Any) -> Chat:
    """A chat whose engine has computed nothing yet."""
    model = tiny_model("llama", vocab_size=len(tiny_tokenizer), max_position_embeddings=2048)
    engine = FocusEngine(
        BaseModel(model, tiny_tokenizer, "tiny"), random_adapter(model), FocusConfig(chunk_size=64, local_window=512)
    )
    return Chat(engine, max_memory_bytes=100_000_000)


def test_eight_cold_threads_over_five_documents_read_each_once(cold: Chat) -> None:
    found: list[Any] = []
    gate = threading.Barrier(8)

    def ask(number: int) -> None:
        gate.wait()
        answer = cold.ask([DOCUMENTS[number % 5]], "Which house?", max_new_tokens=3, ignore_eos=True)
        found.append((answer.sources[0].document, answer.usage))

    in_threads(*(lambda number=number: ask(number) for number in range(8)))
    assert sorted(name for name, _ in found) == sorted(DOCUMENTS[number % 5].name for number in range(8))
    assert sum(usage.encoded_tokens > 0 for _, usage in found) == 5
    assert sum(usage.encoded_tokens for _, usage in found) == sum(cold.count(one.text) for one in DOCUMENTS)


def test_a_document_is_asked_while_another_is_read(cold: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, quick, *_ = DOCUMENTS
    held = Held(cold.engine, slow.name, monkeypatch)
    reading = threading.Thread(target=cold.read, args=(slow,))
    reading.start()
    assert held.begun.wait(30)
    in_threads(lambda: cold.ask([quick], "Which house?", max_new_tokens=1))
    assert reading.is_alive()
    held.go_on.set()
    reading.join(60)
    assert len(cold.pool) == 2


def test_waiting_for_anothers_reading_of_the_same_text_can_be_cancelled(
    cold: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = DOCUMENTS[0]
    held = Held(cold.engine, document.name, monkeypatch)
    reading = threading.Thread(target=cold.read, args=(document,))
    reading.start()
    assert held.begun.wait(30)
    cancel = threading.Event()
    pieces: list[list[str]] = []
    waiting = threading.Thread(
        target=lambda: pieces.append(list(cold.stream_question([document], "Which house?", cancel=cancel)))
    )
    waiting.start()
    time.sleep(0.1)
    assert waiting.is_alive()
    cancel.set()
    waiting.join(10)
    assert pieces == [[]]
    assert reading.is_alive()
    held.go_on.set()
    reading.join(60)
    assert len(cold.pool) == 1


def test_who_waited_reads_a_text_that_the_first_gave_up() -> None:
    turns, order = TextLocks(), []
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with suppress(ReadingCancelledError), turns.of("text"):
            inside.set()
            leave.wait(10)
            order.append("first")
            raise ReadingCancelledError("cancelled")

    def second() -> None:
        inside.wait(10)
        threading.Timer(0.1, leave.set).start()
        with turns.of("text"):
            order.append("second")

    in_threads(first, second)
    assert order == ["first", "second"]
