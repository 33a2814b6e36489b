"""The windows of a text: overlapping stretches of whole sentences, and how well each matches a question's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from focusdoc.decoding.attribution import whole_sentences

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

#: Characters of a window before it is widened to whole sentences; the next one begins half of that further on.
WIDTH = 400


class Windows:
    """The windows of `text`, with an index of their words.

    Attributes:
        spans: characters ``(start, end)`` of each window, in order.
    """

    def __init__(self, text: str) -> None:
        import bm25s

        self.spans = cut(text, WIDTH)
        self._index = bm25s.BM25()
        words = words_of([text[start:end] for start, end in self.spans])
        self._known = {word for each in words for word in each}
        if self._known:  # the library cannot index a text without words, such as one of signs alone
            self._index.index(words, show_progress=False)

    def matches(self, question: str) -> NDArray[numpy.float32]:
        """BM25's score of every window for the words of a question."""
        import numpy

        known = [word for word in words_of([question])[0] if word in self._known]
        if not known:
            return numpy.zeros(len(self.spans), dtype=numpy.float32)
        scores: NDArray[numpy.float32] = self._index.get_scores(known)
        return scores


def words_of(texts: Sequence[str]) -> list[list[str]]:
    """The words of each text, without English stop words, as Snowball's stems; those of other languages go through."""
    import bm25s
    import Stemmer

    words: list[list[str]] = bm25s.tokenize(
        texts, stopwords="en", stemmer=Stemmer.Stemmer("english"), return_ids=False, show_progress=False
    )
    return words


def cut(text: str, width: int = WIDTH) -> list[tuple[int, int]]:
    """The whole text in spans of whole sentences, each overlapping the next by half its width, so that none is cut.

    Args:
        width: characters, before they are widened to the nearest sentence ends.
    """
    starts = range(0, max(1, len(text) - width // 2), max(1, width // 2))
    spans = (whole_sentences(text, start, min(len(text), start + width)) for start in starts)
    return list(dict.fromkeys(span for span in spans if span[0] < span[1]))
