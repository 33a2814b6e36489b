"""Stop strings in streamed text."""

from __future__ import annotations

from collections.abc import Sequence


class Stops:
    """Holds back prefixes of stop strings, and cuts the text at the first stop string.

    Args:
        stop: stop strings; they are cut off.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        #: Whether a stop string was found.
        self.stopped = False

    def add(self, piece: str) -> str:
        """Append a piece; return the text that is now final."""
        text = self._held + piece
        found = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        self.stopped = bool(found)
        end = min(found, default=len(text))
        held = 0 if found else max((_partial_length(text, stop) for stop in self._stop), default=0)
        self._held = text[end - held : end]
        return text[: end - held]

    def finish(self) -> str:
        """The rest of the text, after the last piece."""
        return self._held


def _partial_length(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a proper prefix of `stop`."""
    return next((length for length in range(len(stop) - 1, 0, -1) if text.endswith(stop[:length])), 0)
