"""Reading apart: the reader drafts a reply from each passage alone, and the most promising one is the answer.

A small reader that gets several passages at once mixes up their persons, places and numbers. So passages are read as
the paper reads chunks: each by itself, and what comes of each stands beside the others. It costs no more than reading
them together, since every passage is read once, and those that cannot yield a more promising reply are not read at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from focusdoc.readers.confidence import promise_of
from focusdoc.readers.finding import Found
from focusdoc.readers.passages import Passage
from focusdoc.readers.reader import NEWS, WISH, quietly
from focusdoc.readers.replies import Desk, Reply, signals_for

#: Tokens of a draft; a longer answer is written from all passages together.
DRAFT_TOKENS = 32
#: A reply of this confidence needs no other beside it, and no second look.
SURE = 0.9


def drafts(desk: Desk, question: str, found: Found, passages: Sequence[Passage]) -> list[Reply]:
    """A reply from each passage that may yield the best one, and a second one where the first says the question again;
    no more are made behind one that is sure, cut off or cancelled.
    """
    settings = replace(desk.asked.settings, max_new_tokens=min(DRAFT_TOKENS, desk.asked.settings.max_new_tokens))
    made: list[Reply] = []
    for passage in passages:
        at_best = promise_of(signals_for(found, [passage], 0.0, math.inf))
        if made and at_best <= max(each.promise for each in made):
            continue
        for wish in (WISH, NEWS):
            last = quietly(desk.reply(question, found, [passage], settings, wish))
            made.append(last)
            ends = last.written.finish_reason == "cancelled" or is_cut(desk, made[0])
            if last.tells_news or ends:
                break
        if ends or (last.tells_news and last.confidence >= SURE):
            break
    return made


def is_cut(desk: Desk, reply: Reply) -> bool:
    """Whether a draft ends before the answer does."""
    return reply.written.finish_reason == "length" and desk.asked.settings.max_new_tokens > DRAFT_TOKENS


def best_of(made: Sequence[Reply]) -> Reply:
    """The most promising of drafts; one that was cancelled ends them."""
    return made[-1] if made[-1].written.finish_reason == "cancelled" else max(made, key=lambda each: each.promise)
