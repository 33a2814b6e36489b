"""Token ids to text while they come, and stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: How a tokenizer shows bytes that are not yet a whole character.
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """Turns tokens into text pieces; the pieces joined are exactly the final text.

    A piece is held back while it could still change: an unfinished character, or the beginning of a stop string.

    Args:
        tokenizer: any transformers tokenizer.
        stop: texts that end the answer and are not part of it.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._token_ids: list[int] = []
        self._sent = 0
        #: The text so far, stop strings cut off.
        self.text = ""
        #: Whether a stop string has come.
        self.stopped = False

    def add(self, token: int) -> str:
        """Take one more token; return the text that is now certain (often empty)."""
        self._token_ids.append(token)
        decoded = self._tokenizer.decode(self._token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        # Some tokenizers show a whole run of bytes as broken when its last one is; what was sent stays as it was.
        self.text = self.text[: self._sent] + decoded[self._sent :]
        found = [place for place in (self.text.find(stop) for stop in self._stop) if place >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.stopped = True
            return self._up_to(len(self.text))
        certain = len(self.text)
        while certain > self._sent and self.text[certain - 1] == _INCOMPLETE:
            certain -= 1
        return self._up_to(min([certain] + [self._clear_of(stop, certain) for stop in self._stop]))

    def finish(self) -> str:
        """The rest of the text, when no more tokens come."""
        return self._up_to(len(self.text))

    def _up_to(self, end: int) -> str:
        piece = self.text[self._sent : end]
        self._sent = max(self._sent, end)
        return piece

    def _clear_of(self, stop: str, end: int) -> int:
        """Length of the text up to `end` before its longest ending that may be the beginning of `stop`."""
        for length in range(min(len(stop) - 1, end), 0, -1):
            if self.text.startswith(stop[:length], end - length):
                return end - length
        return end
