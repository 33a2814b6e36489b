"""focusdoc's errors as LangChain exceptions; each is also a ValueError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from langchain_core import exceptions
from langchain_core.exceptions import ContextOverflowError, LangChainException, OutputParserException

from focusdoc.errors import ConfigError, DocumentError, IncompleteAnswerError, PromptTooLongError

# Missing in the oldest supported langchain-core.
_InvalidRequest: type[Exception] = getattr(exceptions, "ModelInvalidRequestError", LangChainException)


class FocusRequestError(_InvalidRequest, ValueError):  # type: ignore[misc, valid-type]  # a base chosen at run time
    """A call is invalid; the message names the problem and the remedy."""


class FocusContextOverflowError(ContextOverflowError, ValueError):
    """A prompt does not fit into the memory; it is never truncated."""


class FocusIncompleteAnswerError(OutputParserException, IncompleteAnswerError):
    """A structured answer ended before its JSON did; the message names what is missing and the remedy."""


@contextmanager
def as_langchain_errors() -> Iterator[None]:
    """Convert focusdoc's errors about a call to LangChain's."""
    try:
        yield
    except PromptTooLongError as error:
        raise FocusContextOverflowError(str(error)) from error
    except (ConfigError, DocumentError) as error:
        raise FocusRequestError(str(error)) from error
