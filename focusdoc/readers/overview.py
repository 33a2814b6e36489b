"""Questions about the whole document: a summary, its themes, how something changes. No place of it answers them.

The reader gets the best passage of every chunk, then the second best of each, and so on, as many as a budget holds; of
a short document that is all of it. The passages are read together.
"""

from __future__ import annotations

import re
from collections.abc import Generator

from focusdoc.decoding.answer import TextPiece
from focusdoc.readers.finding import Found
from focusdoc.readers.passages import Passage, with_passage
from focusdoc.readers.reading import Read
from focusdoc.readers.replies import Desk, Reply

#: Tokens of passages, in the reader's own: what two cores read in half a minute with the catalogue's reader.
OVERVIEW_BUDGET = 6000
#: What the reader is told in place of `focusdoc.readers.reader.WISH`.
OVERVIEW_WISH = "The passages above are from all parts of the document, in its order. Answer from all of them."
_TEXT = r"(?:book|novel|story|document|text|article|report|paper|news|manual|thesis|contract|whole thing)"
_ALL = re.compile(
    rf"\b(?:summar\w+|synops[ei]s|overviews?|outlines?|outlining|gist|tl;?dr|takeaways?|in a nutshell"
    rf"|main (?:themes?|topics?|ideas|points?|arguments?|characters|findings?|conclusions?|messages?)"
    rf"|key (?:themes?|topics?|ideas?|points?|arguments?|findings?|insights?)"
    rf"|(?:this|the) {_TEXT}s? (?:is )?(?:about|as a whole|deals? with)|(?:whole|entire) {_TEXT}"
    rf"|(?:throughout|in the course of|over the course of) (?:this|the) {_TEXT}"
    rf"|(?:topics|themes|subjects) (?:are|does|do|is)|tone of (?:this|the) {_TEXT})(?!\w)",
    re.IGNORECASE,
)


def asks_for_overview(question: str) -> bool:
    """Whether a question asks about the whole document, by its words; English ones only."""
    return _ALL.search(question) is not None


class Overview(Read):
    """Answers what was said last, from passages of all chunks."""

    budget = OVERVIEW_BUDGET
    has_place = False

    def passages(self, desk: Desk, found: Found) -> list[Passage]:
        """See `Read.passages`."""
        return across(desk, found)

    def reply(
        self, desk: Desk, question: str, found: Found, passages: list[Passage]
    ) -> Generator[TextPiece, None, Reply]:
        """See `Read.reply`."""
        return (yield from desk.reply(question, found, passages, desk.asked.settings, wish=OVERVIEW_WISH))


def across(desk: Desk, found: Found) -> list[Passage]:
    """The best window of every chunk, then the second best of each, and so on, as many as the budget holds.

    Windows that meet become one passage; the best passage comes first.
    """
    places, probable = found.places, found.scores.softmax(dim=0)
    rounds: dict[int, int] = {}
    order: list[tuple[int, float, int]] = []
    for window in probable.argsort(descending=True).tolist():
        chunk = int(places.chunks[window])
        rounds[chunk] = rounds.get(chunk, -1) + 1
        order.append((rounds[chunk], -float(probable[window]), window))
    taken: list[Passage] = []
    left = float(desk.budget)
    for _, score, window in sorted(order):
        passage = Passage(*places.spans[window], places.chunk_of(window), -score)
        more = with_passage(passage, taken)
        new = sum(each.end - each.start for each in more) - sum(each.end - each.start for each in taken)
        left -= desk.reader.count(desk.texts([passage])[0]) * new / (passage.end - passage.start)
        if taken and left < 0:
            break
        taken = more
    return sorted(taken, key=lambda each: -each.score)
