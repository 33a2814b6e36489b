"""Drafts: the reader answers from each passage alone and from all together, and the best-ranked draft is the answer.

A small reader confuses persons, places and numbers when it gets several passages at once. So passages are read as the
paper reads chunks, each by itself; those that cannot yield a better draft are skipped. But a passage of a story may not
say whom it is about, or when, so the second draft is written from all passages together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from focusdoc.readers.confidence import rank_score_of
from focusdoc.readers.finding import Found
from focusdoc.readers.passages import Passage
from focusdoc.readers.reader import ANSWER_INSTRUCTION, RETRY_INSTRUCTION, drain
from focusdoc.readers.replies import Reply, Session, signals_for

#: Maximum length of a draft; longer answers are written from all passages together.
DRAFT_TOKENS = 32
#: A draft of this confidence ends the search.
CONFIDENT = 0.9


def draft_replies(session: Session, question: str, found: Found, passages: Sequence[Passage]) -> list[Reply]:
    """Drafts from the best passage, from all and from each other one that could rank first.

    A draft that only repeats the question is retried. Stops after a draft that is confident, truncated or cancelled.
    """
    settings = replace(
        session.request.settings, max_new_tokens=min(DRAFT_TOKENS, session.request.settings.max_new_tokens)
    )
    replies: list[Reply] = []
    alone = [[passage] for passage in passages]
    for shown in alone if len(alone) == 1 else [alone[0], passages, *alone[1:]]:
        upper_bound = rank_score_of(signals_for(found, shown, 0.0, math.inf))
        if replies and upper_bound <= max(each.rank_score for each in replies):
            continue
        for instruction in (ANSWER_INSTRUCTION, RETRY_INSTRUCTION):
            last = drain(session.reply(question, found, shown, settings, instruction, draft=True))
            replies.append(last)
            ends = last.written.finish_reason == "cancelled" or is_truncated(session, replies[0])
            if last.adds_words or ends:
                break
        if ends or (last.adds_words and last.confidence >= CONFIDENT):
            break
    return replies


def is_truncated(session: Session, reply: Reply) -> bool:
    """Whether the draft hit the draft limit before the answer was complete."""
    return reply.written.finish_reason == "length" and session.request.settings.max_new_tokens > DRAFT_TOKENS


def repeats_the_question(reply: Reply) -> bool:
    """Whether the draft says nothing that the question does not, which only a choice ("Is it this or that?") may."""
    chooses = re.search(r"\bor\b", reply.question, re.IGNORECASE)
    return not reply.adds_words and not chooses and reply.written.finish_reason != "cancelled"


def best_draft(replies: Sequence[Reply]) -> Reply:
    """The best-ranked draft; a cancelled one is always last, and returned.

    Of drafts with the same words, the one with the fewest passages, since it shows where they stand.
    """
    if replies[-1].written.finish_reason == "cancelled":
        return replies[-1]
    best = max(replies, key=lambda each: each.rank_score)
    same = [each for each in replies if normalized(each.text) == normalized(best.text)]
    return min(same, key=lambda each: (len(each.passages), -each.rank_score))


def normalized(text: str) -> str:
    """The text without case, punctuation and the width of its spaces; numbers and stop words stay."""
    return " ".join(re.findall(r"\w+", text.casefold())) or text.strip()
