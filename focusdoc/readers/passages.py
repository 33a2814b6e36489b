"""The passages for a reader: the best windows of the documents, merged where they overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from focusdoc.memory.chunk_memory import DocumentMemory
from focusdoc.readers.finding import Found

#: Maximum number of windows.
NUM_WINDOWS = 8
#: Stop once the windows contain the answer with this probability, according to the finder. A confident finder then
#: yields one or two windows, which a small reader confuses less.
ENOUGH = 0.95
#: If two windows share more than this fraction of the shorter one, only the better one is used.
_SHARED = 0.5


@dataclass(frozen=True, slots=True)
class Passage:
    """Characters ``start:end`` of the document of memory number `memory`; equal if these are.

    Attributes:
        chunk: the chunk in the document that contains the middle of the best window.
        score: the finder's probability of the windows in it.
    """

    memory: int
    start: int
    end: int
    chunk: int = field(compare=False)
    score: float = field(compare=False)


def choose_passages(
    found: Found, fits: Callable[[Sequence[Passage]], bool], *, limit: int = NUM_WINDOWS, enough: float = ENOUGH
) -> list[Passage]:
    """The passages of the best windows, best first.

    Args:
        fits: whether passages fit together; the first one is used in any case.
        limit: maximum number of windows.
        enough: stop once windows of this total probability are covered.
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
        merged = merge_passage(window, chosen)
        if chosen and not fits(merged):
            break
        chosen = merged
        taken.append(window)
    scored = (replace(each, score=_covered(windows, [each])) for each in chosen)
    return sorted(scored, key=lambda each: -each.score)


def text_of(memories: Sequence[DocumentMemory], passage: Passage) -> str:
    """The text of a passage."""
    document = memories[passage.memory].document
    assert document is not None  # checked by the finder
    return document.text[passage.start : passage.end]


def in_order(passages: Sequence[Passage]) -> list[Passage]:
    """The passages in document order."""
    return sorted(passages, key=lambda each: (each.memory, each.start))


def windows_in(found: Found, passages: Sequence[Passage]) -> list[int]:
    """The windows that are mostly inside `passages`."""
    return [index for index, span in enumerate(found.places.spans) if overlaps(Passage(*span, 0, 0.0), passages)]


def overlaps(passage: Passage, others: Sequence[Passage]) -> bool:
    """Whether the passage and one of the others mostly overlap."""
    return any(_shared(passage, each) > _SHARED for each in others)


def _shared(one: Passage, other: Passage) -> float:
    """The length that two passages share, relative to the shorter one."""
    common = min(one.end, other.end) - max(one.start, other.start) if one.memory == other.memory else 0
    return common / min(one.end - one.start, other.end - other.start)


def _covered(windows: Sequence[Passage], passages: Sequence[Passage]) -> float:
    """The total probability of the windows that are mostly inside `passages`."""
    return sum(window.score for window in windows if overlaps(window, passages))


def merge_passage(passage: Passage, found: Sequence[Passage]) -> list[Passage]:
    """`found` and `passage`, merged with those it touches."""
    others = []
    for each in found:
        if each.memory == passage.memory and each.start <= passage.end and passage.start <= each.end:
            best = max(each, passage, key=lambda one: one.score)
            passage = replace(best, start=min(each.start, passage.start), end=max(each.end, passage.end))
        else:
            others.append(each)
    return [*others, passage]
