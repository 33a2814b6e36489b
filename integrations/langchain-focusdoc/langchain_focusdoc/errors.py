"""What goes wrong, as LangChain's own exceptions; each is a ValueError too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from langchain_core import exceptions
from langchain_core.exceptions import ContextOverflowError, LangChainException, OutputParserException

from focusdoc.errors import ConfigError, DocumentError, IncompleteAnswerError, PromptTooLongError

# Newer than the oldest langchain-core that this package takes.
_InvalidRequest: type[Exception] = getattr(exceptions, "ModelInvalidRequestError", LangChainException)


class FocusRequestError(_InvalidRequest, ValueError):  # type: ignore[misc, valid-type]  # a base chosen at run time
    """The model cannot do what a call asks for; the message names what, and what to do about it."""


class FocusContextOverflowError(ContextOverflowError, ValueError):
    """A prompt is longer than the memory can hold; nothing of it was cut."""


class FocusIncompleteAnswerError(OutputParserException, IncompleteAnswerError):
    """A structured answer ended before its JSON did; the message names what is missing and the remedy."""


@contextmanager
def as_langchain_errors() -> Iterator[None]:
    """Raise focusdoc's complaints about a call as LangChain's."""
    try:
        yield
    except PromptTooLongError as error:
        raise FocusContextOverflowError(str(error)) from error
    except (ConfigError, DocumentError) as error:
        raise FocusRequestError(str(error)) from error
