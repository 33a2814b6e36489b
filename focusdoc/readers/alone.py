"""A conversation that needs no memory: the reader answers it from its own window."""

from __future__ import annotations

from collections.abc import Generator

from focusdoc.decoding.answer import Answer, TextPiece, Timings, Usage
from focusdoc.decoding.answering import Way
from focusdoc.decoding.prompt import Asked
from focusdoc.readers.fitting import fit_conversation
from focusdoc.readers.reader import Reader, relay


class Alone(Way):
    """The reader answers what needs no memory; there are no sources."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def check(self, asked: Asked) -> None:
        """See `Way.check`.

        Raises:
            ConfigError, PromptTooLongError: the reader cannot keep to the settings, or the last message does not fit
                into its window.
        """
        self.reader.check(asked.settings)
        fit_conversation(self.reader, asked.said, asked.settings)

    def stream(self, asked: Asked) -> Generator[TextPiece, None, None]:
        """See `Way.stream`.

        Raises:
            ReaderError: while it writes.
        """
        pieces: list[str] = []
        conversation = fit_conversation(self.reader, asked.said, asked.settings)
        written = yield from relay(self.reader.write(conversation, asked.settings, asked.cancel), pieces)
        usage = Usage(0, 0, 0, written.completion_tokens, reader_tokens=written.prompt_tokens)
        timings = Timings(written.first_token, written.decode)
        yield TextPiece("", Answer("".join(pieces), (), usage, timings, (), written.finish_reason))
