"""A reader that is another library's model object; a framework's package says how its objects are asked."""

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
from focusdoc.readers.reader import WINDOW, Messages, Written, estimated, no_grammar
from focusdoc.readers.stops import Stops

#: Settings of sampling: an object has its own.
_SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty", "seed")


@dataclass(frozen=True, slots=True)
class Ended:
    """How an object's answer ended; None where it does not say."""

    finish_reason: FinishReason = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class ObjectReader(ABC):
    """Writes with a model object that keeps its own sampling and its own limit of tokens.

    Copies of what holds it hold the same one, since such objects have connections open.

    Args:
        model: the object; its `model` or `model_name` is the reader's name, where it has one.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        names = (getattr(model, attribute, None) for attribute in ("model", "model_name"))
        self.name = next((name for name in names if isinstance(name, str) and name), type(model).__name__)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.model).__name__}, {self.name!r})"

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Itself."""
        return self

    @cached_property
    def window(self) -> int:
        """See `Reader.window`."""
        with self._explained():
            return self.context_window() or WINDOW

    def context_window(self) -> int | None:
        """Tokens of prompt and answer that the object says it takes; None where it does not say."""
        return None

    @abstractmethod
    def pieces(self, messages: Messages, stop: tuple[str, ...]) -> Generator[str, None, Ended]:
        """The text of the object's answer as it comes.

        Args:
            stop: texts that end it, for objects that know such; they are cut off in any case.
        """

    def count(self, text: str) -> int:
        """See `Reader.count`: rather too many than too few."""
        return estimated(text)

    def check(self, settings: GenerationConfig) -> None:
        """See `Reader.check`: it has its own sampling, and can be kept to no grammar."""
        if settings.grammar is not None:
            raise no_grammar(self.name)
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
        begun = time.perf_counter()
        first: float | None = None
        text = Stops(settings.stop)
        ended: Ended | None = None
        count = 0
        with closing(self.pieces(messages, tuple(settings.stop))) as pieces:
            while ended is None:
                try:
                    with self._explained():
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
        over = time.perf_counter()
        first = first or over
        ended = ended or Ended()
        prompt = sum(self.count(content) for _, content in messages)
        return Written(
            ended.finish_reason,
            prompt if ended.prompt_tokens is None else ended.prompt_tokens,
            count if ended.completion_tokens is None else ended.completion_tokens,
            first - begun,
            over - first,
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn whatever the object raises into one error."""
        try:
            yield
        except (FocusdocError, StopIteration):
            raise
        except Exception as error:
            said = (str(error).strip() or type(error).__name__)[:300]
            raise ReaderError(f"The reader {self.name} failed: {said}") from error
