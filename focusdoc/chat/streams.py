"""Consuming streams of text pieces."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from focusdoc.errors import FocusdocError

if TYPE_CHECKING:
    from focusdoc.decoding.answer import Answer, TextPiece


def last_answer(pieces: Iterable[TextPiece]) -> Answer:
    """Consume a stream and return its answer.

    Raises:
        FocusdocError: it was cancelled before there was an answer.
    """
    answer = None
    for piece in pieces:
        answer = piece.answer
    if answer is None:
        raise FocusdocError("The call was cancelled while its documents were read.")
    return answer
