"""The chunks of a sample while facts are planted in them."""

from __future__ import annotations

import random
from collections.abc import Callable

#: Share of what is planted that breaks into a sentence. Notes and tables in a text do, and where a candidate has only
#: ever read facts behind a full stop, it takes a number that stands elsewhere for part of the sentence around it.
_ANYWHERE = 0.5


class Soil:
    """The chunks of a sample while facts are planted in them; nothing planted is ever cut or overwritten.

    Args:
        chunks: token ids of the text, chunk by chunk, all of one length.
    """

    def __init__(self, chunks: list[list[int]], rng: random.Random) -> None:
        self._chunks = chunks
        self._rng = rng
        self._planted: list[list[list[int]]] = [[] for _ in chunks]
        self._room = [len(chunk) for chunk in chunks]

    def plant(self, statement: list[int]) -> bool:
        """Give `statement` a place in a random chunk; False if no chunk tried has room."""
        for _ in range(8):
            index = self._rng.randrange(len(self._chunks))
            if len(statement) <= self._room[index]:
                self._planted[index].append(statement)
                self._room[index] -= len(statement)
                return True
        return False

    def fill(self, make: Callable[[int], list[int]]) -> bool:
        """Replace the text of a random untouched chunk by ``make(its length)``; False if none tried is untouched."""
        for _ in range(8):
            index = self._rng.randrange(len(self._chunks))
            if self._room[index] == len(self._chunks[index]):
                self._chunks[index] = make(len(self._chunks[index]))
                self._room[index] = 0
                return True
        return False

    def chunks(self, sentence_ends: frozenset[int]) -> list[list[int]]:
        """The chunks with everything planted, mostly at sentence ends where there is one near."""
        grown = []
        for text, planted in zip(self._chunks, self._planted, strict=True):
            length = len(text)
            kept = text[: length - sum(map(len, planted))]
            places = sorted(self._place(kept, sentence_ends) for _ in planted)
            chunk: list[int] = []
            for begin, end, statement in zip([0, *places], places, planted, strict=False):
                chunk += kept[begin:end] + statement
            grown.append(chunk + kept[places[-1] if places else 0 :])
        return grown

    def _place(self, kept: list[int], sentence_ends: frozenset[int]) -> int:
        """Where in `kept` something is planted: in front of this token."""
        place = self._rng.randint(0, len(kept))
        return place if self._rng.random() < _ANYWHERE else _near_end(kept, place, sentence_ends)


def _near_end(tokens: list[int], place: int, sentence_ends: frozenset[int]) -> int:
    """`place`, moved back to the end of a sentence if one ends within 40 tokens."""
    return next((at for at in range(place, max(0, place - 40), -1) if tokens[at - 1] in sentence_ends), place)
