"""A conversation that needs no memory: the reader answers it from its own window."""

from __future__ import annotations

import threading
from collections.abc import Generator

from focusdoc.config import GenerationConfig
from focusdoc.decoding.answer import Answer, TextPiece, Timings, Usage
from focusdoc.readers.fitting import fit_conversation
from focusdoc.readers.reader import Messages, Reader, relay


def stream_own_answer(
    reader: Reader, conversation: Messages, settings: GenerationConfig, cancel: threading.Event | None = None
) -> Generator[TextPiece, None, None]:
    """Yield the text as the reader writes it; the last piece carries the whole `Answer`, which has no sources.

    Raises:
        ConfigError, PromptTooLongError: before the first piece: the reader cannot keep to the settings, or the last
            message does not fit into its window. ReaderError: while it writes.
    """
    reader.check(settings)
    return _stream(reader, fit_conversation(reader, conversation, settings), settings, cancel)


def _stream(
    reader: Reader, conversation: Messages, settings: GenerationConfig, cancel: threading.Event | None
) -> Generator[TextPiece, None, None]:
    pieces: list[str] = []
    written = yield from relay(reader.write(conversation, settings, cancel), pieces)
    usage = Usage(0, 0, 0, written.completion_tokens, reader_tokens=written.prompt_tokens)
    timings = Timings(written.first_token, written.decode)
    yield TextPiece("", Answer("".join(pieces), (), usage, timings, (), written.finish_reason))
