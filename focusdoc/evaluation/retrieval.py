"""Passages of a document for a question: overlapping windows, ranked by a finder, joined where they meet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from focusdoc.evaluation.item import Span
from focusdoc.evaluation.mode_names import PASSAGES

#: The numbers of the windows that a finder knows, the best for the question first; those that say nothing left out.
Rank = Callable[[str], Sequence[int]]


class Finder(Protocol):
    """A way to rank the windows of a document."""

    def describe(self) -> dict[str, Any]:
        """The settings that shape its order, ready for JSON."""
        ...

    def index(self, windows: Sequence[str]) -> Rank:
        """Take in the windows of one document; returns what ranks them for a question."""
        ...


def passages(
    text: str, ranked: Iterable[Span], *, budget: int, count: Callable[[str], int], limit: int = PASSAGES
) -> list[Span]:
    """The first of the ranked spans, those that meet joined, in the order of their rank (a joined one's is its best).

    Joined ones may grow to a page. To leave out what would make them longer than 1,000 characters was tried: of 400
    questions to tune on, embeddings then had the place of 5 fewer.

    Args:
        budget: tokens that they may take in all, as `count` counts them; the first one is taken whatever it takes.
        limit: passages at most.
    """
    found: list[Span] = []
    for span in ranked:
        more = _with(span, found)
        if len(more) > limit or (found and sum(count(text[start:end]) for start, end in more) > budget):
            break
        found = more
    return found


def first_with(places: Iterable[Span], found: Sequence[Span]) -> int | None:
    """The rank, 1 for the first, of the first passage that one of `places` lies inside; None where there is none."""
    places = list(places)
    return next(
        (
            rank
            for rank, (start, end) in enumerate(found, start=1)
            if any(start <= first and last <= end for first, last in places)
        ),
        None,
    )


def _with(span: Span, found: list[Span]) -> list[Span]:
    met = [each for each in found if each[0] <= span[1] and span[0] <= each[1]]
    if not met:
        return [*found, span]
    joined = min(span[0], *(start for start, _ in met)), max(span[1], *(end for _, end in met))
    return [joined if each is met[0] else each for each in found if each is met[0] or each not in met]
