"""A reader that wraps another library's model object; integration packages subclass it."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from focusdoc.config import GenerationConfig
from focusdoc.decoding.answer import FinishReason
from focusdoc.errors import ConfigError, FocusdocError, ReaderError
from focusdoc.readers.reader import WINDOW, Messages, Written, approximate_tokens, grammar_error
from focusdoc.readers.stops import Stops

#: Sampling settings, which the wrapped object keeps itself.
_SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty", "seed")


@dataclass(frozen=True, slots=True)
class Ended:
    """How the object's answer ended; None where it does not say."""

    finish_reason: FinishReason = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class ObjectReader(ABC):
    """Writes with a model object that has its own sampling settings and token limit.

    Deep copies share the object, since it may hold open connections.

    Args:
        model: the object; its `model` or `model_name` becomes the reader's name.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        names = (getattr(model, attribute, None) for attribute in ("model", "model_name"))
        self.name = next((name for name in names if isinstance(name, str) and name), type(model).__name__)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.model).__name__}, {self.name!r})"

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Return itself."""
        return self

    @cached_property
    def window(self) -> int:
        """See `Reader.window`."""
        with self._as_reader_error():
            return self.context_window() or WINDOW

    def context_window(self) -> int | None:
        """The object's context window in tokens; None if it does not say."""
        return None

    @abstractmethod
    def pieces(self, messages: Messages, stop: tuple[str, ...]) -> Generator[str, None, Ended]:
        """Yield the text of the object's answer as it is generated.

        Args:
            stop: stop strings, for objects that support them; the caller cuts them off in any case.
        """

    def count(self, text: str) -> int:
        """See `Reader.count`; an upper estimate."""
        return approximate_tokens(text)

    def check(self, settings: GenerationConfig) -> None:
        """See `Reader.check`; sampling settings and grammars are not supported."""
        if settings.grammar is not None:
            raise grammar_error(self.name)
        defaults = GenerationConfig()
        for name in _SAMPLING:
            if getattr(settings, name) != getattr(defaults, name):
                raise ConfigError(
                    f"{name} is {getattr(settings, name)}, but the reader {self.name} keeps its own sampling; set it "
                    "on that object, and leave it out here."
                )

    def write(
        self, messages: Messages, settings: GenerationConfig, cancel: threading.Event | None = None
    ) -> Generator[str, None, Written]:
        """See `Reader.write`."""
        started_at = time.perf_counter()
        first: float | None = None
        text = Stops(settings.stop)
        ended: Ended | None = None
        count = 0
        with closing(self.pieces(messages, tuple(settings.stop))) as pieces:
            while ended is None:
                try:
                    with self._as_reader_error():
                        piece = next(pieces)
                except StopIteration as end:
                    ended = end.value
                    break
                first = first or time.perf_counter()
                count += 1
                if certain := text.add(piece):
                    yield certain
                if text.stopped:
                    ended = Ended()
                elif cancel is not None and cancel.is_set():
                    ended = Ended("cancelled")
        if rest := text.finish():
            yield rest
        ended_at = time.perf_counter()
        first = first or ended_at
        ended = ended or Ended()
        prompt = sum(self.count(content) for _, content in messages)
        return Written(
            ended.finish_reason,
            prompt if ended.prompt_tokens is None else ended.prompt_tokens,
            count if ended.completion_tokens is None else ended.completion_tokens,
            first - started_at,
            ended_at - first,
        )

    @contextmanager
    def _as_reader_error(self) -> Iterator[None]:
        """Turn any exception of the object into a ReaderError."""
        try:
            yield
        except (FocusdocError, StopIteration):
            raise
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__)[:300]
            raise ReaderError(f"The reader {self.name} failed: {reason}") from error
