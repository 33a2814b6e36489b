"""With a reader: the base model's way finds, the reader writes."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from focusdoc.decoding.answer import TextPiece
from focusdoc.decoding.answering import Asked, OwnWay, Way
from focusdoc.readers.answering import BUDGET, stream_read_answer
from focusdoc.readers.finding import Finder
from focusdoc.readers.fitting import fit_reading
from focusdoc.readers.reader import Reader


class Read(Way):
    """Answers what was said last, from passages.

    Args:
        own: the base model's way, whose decoder looks.
        finder: of the base model.
    """

    def __init__(self, own: OwnWay[Any], reader: Reader, finder: Finder) -> None:
        self.own = own
        self.reader = reader
        self.finder = finder

    def check(self, asked: Asked) -> None:
        """See `Way.check`.

        Raises:
            ConfigError, PromptTooLongError: the reader cannot keep to the settings, or the question does not fit into
                its window; or what `OwnWay.check` raises.
        """
        self.own.check(asked)
        self.reader.check(asked.settings)
        fit_reading(self.reader, asked.said[-1][1], asked.said[:-1], asked.settings, BUDGET)

    def stream(self, asked: Asked) -> Generator[TextPiece, None, None]:
        """See `Way.stream` and `stream_read_answer`."""
        decoder = self.own.decoder(asked.blocks, asked.settings.max_new_tokens)
        *earlier, (_, question) = asked.said
        return stream_read_answer(decoder, asked, self.reader, question, self.finder, earlier=earlier)
