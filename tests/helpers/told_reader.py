"""A reader that says what it is told to say, and keeps what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Generator

from focusdoc.config import GenerationConfig
from focusdoc.errors import ReaderError
from focusdoc.readers.reader import Messages, Written, no_grammar


class Told:
    """Yields `pieces`; a token is a word.

    Args:
        fails_after: this many pieces, then it breaks off.

    Attributes:
        asked: what it was asked. kept: the settings of each.
    """

    name = "told"

    def __init__(self, *pieces: str, fails_after: int | None = None, window: int = 4096) -> None:
        self.pieces = pieces
        self.fails_after = fails_after
        self.window = window
        self.asked: list[list[tuple[str, str]]] = []
        self.kept: list[GenerationConfig] = []

    def count(self, text: str) -> int:
        return len(text.split())

    def check(self, settings: GenerationConfig) -> None:
        if settings.grammar is not None:
            raise no_grammar(self.name)

    def write(
        self, messages: Messages, settings: GenerationConfig, cancel: threading.Event | None = None
    ) -> Generator[str, None, Written]:
        self.asked.append(list(messages))
        self.kept.append(settings)
        for number, piece in enumerate(self.pieces):
            if number == self.fails_after:
                raise ReaderError("it broke off")
            yield piece
            if cancel is not None and cancel.is_set():
                return Written("cancelled", 77, number + 1, 0.5, 0.25)
        return Written("stop", 77, len(self.pieces), 0.5, 0.25)
