"""The passages that a reader gets: the best windows of the documents, overlapping ones put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from focusdoc.memory.chunk_memory import DocumentMemory
from focusdoc.readers.finding import Found

#: Windows that are taken, at most.
NUM_WINDOWS = 8
#: Windows are taken until the place is among them with this probability, as the finder sees it: where it is sure, one
#: or two, between which a small reader mixes up less.
ENOUGH = 0.95
#: Of two windows that share more than this of the shorter one, the better one is taken alone.
_SHARED = 0.5


@dataclass(frozen=True, slots=True)
class Passage:
    """Characters ``start:end`` of the document of memory number `memory`.

    Attributes:
        chunk: of the document, which holds the middle of the best of its windows.
        score: the probability that the finder gives the windows in it.
    """

    memory: int
    start: int
    end: int
    chunk: int
    score: float


def choose_passages(
    found: Found, fits: Callable[[Sequence[Passage]], bool], *, limit: int = NUM_WINDOWS, enough: float = ENOUGH
) -> list[Passage]:
    """The passages of the best windows, the best one first.

    Args:
        fits: whether these passages may be taken together; the first one is taken in any case.
        limit: windows that are taken, at most.
        enough: no more are taken once windows of this probability are covered.
    """
    probable = found.scores.softmax(dim=0)
    order: list[int] = probable.argsort(descending=True).tolist()
    windows = [
        Passage(*found.places.spans[index], found.places.chunk_of(index), float(probable[index])) for index in order
    ]
    chosen: list[Passage] = []
    taken: list[Passage] = []
    for window in windows:
        if len(taken) == limit or _covered(windows, chosen) >= enough:
            break
        if overlaps(window, taken):
            continue
        more = with_passage(window, chosen)
        if chosen and not fits(more):
            break
        chosen = more
        taken.append(window)
    scored = (replace(each, score=_covered(windows, [each])) for each in chosen)
    return sorted(scored, key=lambda each: -each.score)


def text_of(memories: Sequence[DocumentMemory], passage: Passage) -> str:
    """The words of a passage."""
    document = memories[passage.memory].document
    assert document is not None  # the finder has refused it
    return document.text[passage.start : passage.end]


def in_order(passages: Sequence[Passage]) -> list[Passage]:
    """Passages in the order of the documents."""
    return sorted(passages, key=lambda each: (each.memory, each.start))


def windows_in(found: Found, passages: Sequence[Passage]) -> list[int]:
    """The windows that lie in one of `passages`, at least for the most part."""
    return [index for index, span in enumerate(found.places.spans) if overlaps(Passage(*span, 0, 0.0), passages)]


def overlaps(passage: Passage, others: Sequence[Passage]) -> bool:
    """Whether a passage lies in one of the others, or one of them in it, at least for the most part."""
    return any(_shared(passage, each) > _SHARED for each in others)


def _shared(one: Passage, other: Passage) -> float:
    """The share of the shorter of two passages that they have in common."""
    common = min(one.end, other.end) - max(one.start, other.start) if one.memory == other.memory else 0
    return common / min(one.end - one.start, other.end - other.start)


def _covered(windows: Sequence[Passage], passages: Sequence[Passage]) -> float:
    """The probability of the windows that lie in one of `passages`, at least for the most part."""
    return sum(window.score for window in windows if overlaps(window, passages))


def with_passage(passage: Passage, found: Sequence[Passage]) -> list[Passage]:
    """`found` and `passage`, which is one with those that it meets."""
    others = []
    for each in found:
        if each.memory == passage.memory and each.start <= passage.end and passage.start <= each.end:
            best = max(each, passage, key=lambda one: one.score)
            passage = replace(best, start=min(each.start, passage.start), end=max(each.end, passage.end))
        else:
            others.append(each)
    return [*others, passage]
