"""Questions about the whole document (a summary, its themes), which no single passage answers.

The reader gets the best passage of every chunk, then the second best of each, and so on, up to a budget; of a short
document that is all of it. The passages are read together.
"""

from __future__ import annotations

import re
from collections.abc import Generator

from focusdoc.decoding.answer import TextPiece
from focusdoc.readers.finding import Found
from focusdoc.readers.passages import Passage, merge_passage
from focusdoc.readers.reading import Read
from focusdoc.readers.replies import Reply, Session

#: Budget in the reader's tokens: what the catalogue's reader reads in half a minute on two cores.
OVERVIEW_BUDGET = 6000
#: Replaces `focusdoc.readers.reader.ANSWER_INSTRUCTION`.
OVERVIEW_INSTRUCTION = "The passages above are from all parts of the document, in its order. Answer from all of them."
_DOCUMENT = r"(?:book|novel|story|document|text|article|report|paper|news|manual|thesis|contract|whole thing)"
_OVERVIEW_WORDS = re.compile(
    rf"\b(?:summar\w+|synops[ei]s|overviews?|outlines?|outlining|gist|tl;?dr|takeaways?|in a nutshell"
    rf"|main (?:themes?|topics?|ideas|points?|arguments?|characters|findings?|conclusions?|messages?)"
    rf"|key (?:themes?|topics?|ideas?|points?|arguments?|findings?|insights?)"
    rf"|(?:this|the) {_DOCUMENT}s? (?:is )?(?:about|as a whole|deals? with)|(?:whole|entire) {_DOCUMENT}"
    rf"|(?:throughout|in the course of|over the course of) (?:this|the) {_DOCUMENT}"
    rf"|(?:topics|themes|subjects) (?:are|does|do|is)|tone of (?:this|the) {_DOCUMENT})(?!\w)",
    re.IGNORECASE,
)


def asks_for_overview(question: str) -> bool:
    """Whether a question asks about the whole document, by English keywords."""
    return _OVERVIEW_WORDS.search(question) is not None


class Overview(Read):
    """Answers the last message from passages of all chunks."""

    budget = OVERVIEW_BUDGET
    reports_confidence = False

    def passages(self, session: Session, found: Found) -> list[Passage]:
        """See `Read.passages`."""
        return passages_of_all_chunks(session, found)

    def reply(
        self, session: Session, question: str, found: Found, passages: list[Passage]
    ) -> Generator[TextPiece, None, Reply]:
        """See `Read.reply`."""
        return (
            yield from session.reply(
                question, found, passages, session.request.settings, instruction=OVERVIEW_INSTRUCTION
            )
        )


def passages_of_all_chunks(session: Session, found: Found) -> list[Passage]:
    """The best window of every chunk, then the second best of each, and so on, up to the budget.

    Adjacent windows are merged; the best passage comes first.
    """
    places, probable = found.places, found.scores.softmax(dim=0)
    rounds: dict[int, int] = {}
    order: list[tuple[int, float, int]] = []
    for window in probable.argsort(descending=True).tolist():
        chunk = int(places.chunks[window])
        rounds[chunk] = rounds.get(chunk, -1) + 1
        order.append((rounds[chunk], -float(probable[window]), window))
    chosen: list[Passage] = []
    left = float(session.budget)
    for _, score, window in sorted(order):
        passage = Passage(*places.spans[window], places.chunk_of(window), -score)
        merged = merge_passage(passage, chosen)
        new = sum(each.end - each.start for each in merged) - sum(each.end - each.start for each in chosen)
        left -= session.reader.count(session.texts([passage])[0]) * new / (passage.end - passage.start)
        if chosen and left < 0:
            break
        chosen = merged
    return sorted(chosen, key=lambda each: -each.score)
