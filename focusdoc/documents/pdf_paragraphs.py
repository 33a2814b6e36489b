"""Where the paragraphs of a PDF page start: behind more white space than between its lines, or at an indent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from focusdoc.documents.sentences import goes_on

#: White space above a paragraph, relative to the distance of two lines.
_APART = 1.25
#: Font size of a heading, relative to the line below, which starts a paragraph.
_HEADING = 1.1
#: An indent, and the tolerance of a left edge, in em.
_INDENT, _SAME_LEFT = (0.7, 4.0), 0.3
#: Least and most distance of two lines, relative to the font size.
_LINES = 0.5, 3.0


class Line(NamedTuple):
    """The position of a line's start on the page and the size of its font, in points."""

    x: float
    y: float
    size: float


def line_distance(blocks: Iterable[Sequence[Line]]) -> float:
    """The most common distance of two lines, relative to the larger font of the two; 0 if there are none."""
    drops = (round(_drop(*pair), 2) for lines in blocks for pair in pairwise(lines))
    common = Counter(drop for drop in drops if _LINES[0] < drop < _LINES[1])
    return max(common.items(), key=lambda each: (each[1], -each[0]), default=(0.0, 0))[0]


def _drop(above: Line, line: Line) -> float:
    return (above.y - line.y) / max(above.size, line.size)


def paragraph_starts(lines: Sequence[Line], em: float, distance: float) -> set[int]:
    """The indices of the lines, other than the first, that start a paragraph.

    They stand behind white space or a heading in a larger font, or are indented between two lines that are not.

    Args:
        lines: of one column, in reading order.
        em: the page's font size in points.
        distance: between two lines, see `line_distance`.
    """
    if not lines or not distance:
        return set()
    left = Counter(round(line.x / em, 1) * em for line in lines).most_common(1)[0][0]
    indents = [(line.x - left) / em for line in lines]

    def is_flush(index: int) -> bool:
        return index < len(lines) and abs(indents[index]) < _SAME_LEFT

    return {
        index
        for index in range(1, len(lines))
        if _drop(lines[index - 1], lines[index]) > _APART * distance
        or lines[index - 1].size > _HEADING * lines[index].size
        or (_INDENT[0] < indents[index] < _INDENT[1] and is_flush(index - 1) and is_flush(index + 1))
    }


def join_blocks(blocks: Iterable[str]) -> str:
    """Blocks of lines, such as columns, joined; with a blank line unless a paragraph may go on."""
    joined = ""
    for block in filter(None, blocks):
        joined += (("\n" if goes_on(joined, block) else "\n\n") if joined else "") + block
    return joined
