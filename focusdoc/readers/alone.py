"""Answering without documents: the reader uses its own context window."""

from __future__ import annotations

from collections.abc import Generator

from focusdoc.decoding.answer import Answer, TextPiece, Timings, Usage
from focusdoc.decoding.answering import Way
from focusdoc.decoding.prompt import Request
from focusdoc.readers.fitting import fit_conversation
from focusdoc.readers.reader import Reader, relay


class Alone(Way):
    """The reader answers without documents and sources."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def check(self, request: Request) -> None:
        """See `Way.check`.

        Raises:
            ConfigError, PromptTooLongError: the reader does not support the settings, or the last message does not fit
                its window.
        """
        self.reader.check(request.settings)
        fit_conversation(self.reader, request.messages, request.settings)

    def stream(self, request: Request) -> Generator[TextPiece, None, None]:
        """See `Way.stream`.

        Raises:
            ReaderError: the reader fails while writing.
        """
        pieces: list[str] = []
        conversation = fit_conversation(self.reader, request.messages, request.settings)
        written = yield from relay(self.reader.write(conversation, request.settings, request.cancel), pieces)
        usage = Usage(0, 0, 0, written.completion_tokens, reader_tokens=written.prompt_tokens)
        timings = Timings(written.first_token, written.decode)
        yield TextPiece("", Answer("".join(pieces), (), usage, timings, (), written.finish_reason))
