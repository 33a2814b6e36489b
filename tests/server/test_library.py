"""How much memory an answer is expected to take."""

from __future__ import annotations

from pathlib import Path

from server_conftest import until

from focusdoc import Chat, Document, FocusEngine, Message
from focusdoc.server.files import FileStore
from focusdoc.server.library import Library


def test_texts_without_a_memory_count_wherever_they_come_from(tiny_engine: FocusEngine, tmp_path: Path) -> None:
    chat = Chat(tiny_engine, 10_000_000)
    library = Library(FileStore(tmp_path, 1 << 20), lambda: chat)
    library.start()
    until(lambda: library.is_ready)
    text = "The colour of the house is blue. " * 400
    question = [Message("user", "What colour?")]
    tokens = len(text) // 4
    assert library.answer_bytes([], question, 8) == 0
    sent = library.answer_bytes([Document.from_text(text)], question, 8)
    pasted = library.answer_bytes([], [Message("user", text)], 8)
    assert sent > tokens * tiny_engine.base.kv_bytes_per_token
    assert sent > pasted > (tokens - tiny_engine.config.local_window) * tiny_engine.base.kv_bytes_per_token
    for _ in chat.stream([Message("user", f"{text}\n\nQuestion: What colour?")], max_new_tokens=1):
        pass
    pasted_again = f"{text}\n\nQuestion: What is blue?"
    known = chat.pool.longest_prefix(pasted_again)
    assert known is not None
    assert library.answer_bytes([], [Message("user", pasted_again)], 8) == library.answer_bytes(
        [Document.from_text(known)], question, 8
    )
    library.stop()
