"""Readers with scripted answers, which record their prompts."""

from __future__ import annotations

import threading
from collections.abc import Generator

from focusdoc.config import GenerationConfig
from focusdoc.errors import ReaderError
from focusdoc.readers.reader import Messages, Written, grammar_error


class ScriptedReader:
    """Writes `pieces`; each word counts as a token.

    Args:
        fails_after: number of pieces after which it fails.

    Attributes:
        asked: the prompts. kept: the settings of each.
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
            raise grammar_error(self.name)

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


class JudgingReader(ScriptedReader):
    """Answers by the contents of its prompt, and judges its own answers.

    Args:
        says: answer and log-odds for each text; the first text found in the prompt counts.
        otherwise: answer and log-odds for other prompts.
    """

    def __init__(self, says: dict[str, tuple[str, float]], otherwise: tuple[str, float] = ("nothing", -4.0)) -> None:
        super().__init__()
        self.says = says
        self.otherwise = otherwise

    def write(
        self, messages: Messages, settings: GenerationConfig, cancel: threading.Event | None = None
    ) -> Generator[str, None, Written]:
        self.asked.append(list(messages))
        self.kept.append(settings)
        text, _ = self._said(messages)
        words = text.split(" ")[: settings.max_new_tokens]
        reason = "length" if len(words) == settings.max_new_tokens else "stop"
        for number, word in enumerate(words):
            yield word if number == 0 else f" {word}"
            if cancel is not None and cancel.is_set():
                return Written("cancelled", 7, number + 1, 0.5, 0.25, -1.0)
        return Written(reason, 7, len(words), 0.5, 0.25, -1.0)

    def yes_log_odds(self, messages: Messages) -> float:
        return self._said(messages)[1]

    def _said(self, messages: Messages) -> tuple[str, float]:
        content = messages[-1][1]
        return next((said for words, said in self.says.items() if words in content), self.otherwise)
