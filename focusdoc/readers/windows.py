"""The windows of a text (paragraphs, or groups of sentences in long ones) and their BM25 index."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from focusdoc.documents.sentences import whole_sentences

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

#: Characters of a window in a long paragraph, before widening to whole sentences.
WIDTH = 400
#: Blank lines.
_GAP = re.compile(r"(?:\r?\n[ \t]*){2,}")
#: Longest line of a heading.
_MAX_HEADING = 80


class Windows:
    """The windows of `text`, indexed by their words.

    Attributes:
        spans: characters ``(start, end)`` of each window, in order.
    """

    def __init__(self, text: str, width: int | None = None) -> None:
        import bm25s

        self.spans = cut(text, width or WIDTH)
        self._index = bm25s.BM25()
        words = words_of([text[start:end] for start, end in self.spans])
        self._vocabulary = {word for each in words for word in each}
        if self._vocabulary:  # bm25s cannot index a text without words
            self._index.index(words, show_progress=False)

    def matches(self, question: str) -> NDArray[numpy.float32]:
        """BM25 score of every window for a question."""
        import numpy

        known = [word for word in words_of([question])[0] if word in self._vocabulary]
        if not known:
            return numpy.zeros(len(self.spans), dtype=numpy.float32)
        scores: NDArray[numpy.float32] = self._index.get_scores(known)
        return scores


def words_of(texts: Sequence[str]) -> list[list[str]]:
    """The stemmed words of each text (Snowball), without English stop words; other languages pass unchanged."""
    import bm25s
    import Stemmer

    words: list[list[str]] = bm25s.tokenize(
        texts, stopwords="en", stemmer=Stemmer.Stemmer("english"), return_ids=False, show_progress=False
    )
    return words


def cut(text: str, width: int = WIDTH) -> list[tuple[int, int]]:
    """The text as spans: paragraphs, so that no span mixes unrelated neighbours.

    Paragraphs shorter than half of `width`, such as lines of dialogue, are joined with the one before, headings with
    the one after. Those longer than 2.5 times `width` are split into whole sentences, in spans that overlap by half
    their width.

    Args:
        width: characters per span, before widening to sentence ends.
    """
    spans: list[tuple[int, int]] = []
    for start, end in _paragraphs(text, width // 2, width * 5 // 2):
        inside = _overlapping(text[start:end], width) if end - start > width * 5 // 2 else [(0, end - start)]
        spans += [(start + first, start + last) for first, last in inside]
    return spans


def _paragraphs(text: str, least: int, most: int) -> list[tuple[int, int]]:
    """Text between blank lines.

    Pieces shorter than `least` are joined with a neighbour, up to `most` characters; headings with what follows.
    """
    ends = [0, *(place for gap in _GAP.finditer(text) for place in gap.span()), len(text)]
    joined: list[tuple[int, int]] = []
    for start, end in zip(ends[::2], ends[1::2], strict=True):
        if not text[start:end].strip():
            continue
        if joined:
            first, last = joined[-1]
            is_short = last - first < least or (end - start < least and not _is_heading(text[start:end]))
            if (is_short or _is_heading(text[first:last])) and end - first <= most:
                joined[-1] = first, end
                continue
        joined.append((start, end))
    if len(joined) > 1 and joined[-1][1] - joined[-2][0] <= most and _is_heading(text[slice(*joined[-1])]):
        joined[-2:] = [(joined[-2][0], joined[-1][1])]  # nothing follows it
    return joined


def _is_heading(text: str) -> bool:
    """Whether all lines are short and without punctuation at their ends."""
    lines = filter(None, map(str.strip, text.splitlines()))
    return all(
        len(line) <= _MAX_HEADING and line[-1].isalnum() and (line[0].isalnum() or line[0] == "#") for line in lines
    )


def _overlapping(text: str, width: int) -> list[tuple[int, int]]:
    starts = range(0, max(1, len(text) - width // 2), max(1, width // 2))
    spans = (whole_sentences(text, start, min(len(text), start + width)) for start in starts)
    return list(dict.fromkeys(span for span in spans if span[0] < span[1]))
