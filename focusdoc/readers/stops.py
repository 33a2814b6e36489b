"""Stop strings in a text that comes in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class Stops:
    """Holds back what may be the beginning of a stop string, and cuts the text off at the first one.

    Args:
        stop: texts that end the answer and are not part of it.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        #: Whether a stop string has come.
        self.stopped = False

    def add(self, piece: str) -> str:
        """Take one more piece; return the text that is now certain."""
        text = self._held + piece
        found = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        self.stopped = bool(found)
        end = min(found, default=len(text))
        held = 0 if found else max((_begun(text, stop) for stop in self._stop), default=0)
        self._held = text[end - held : end]
        return text[: end - held]

    def finish(self) -> str:
        """The rest of the text, when no more pieces come."""
        return self._held


def _begun(text: str, stop: str) -> int:
    """Length of the longest ending of `text` that `stop` begins with."""
    return next((length for length in range(len(stop) - 1, 0, -1) if text.endswith(stop[:length])), 0)
