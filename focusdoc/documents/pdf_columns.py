"""The text of a PDF page in reading order, column by column.

pypdf gives text in drawing order, and some programs draw a page of columns row by row, across the columns. Here every
text that is placed on its own is taken with its position, and texts that follow each other on a baseline make a run. A
column's left edge is an x at which many runs start and which few cross, with lines of prose beside each other on both
sides (the short cells of tables and labels of lists are no columns). The runs that do cross it, such as wide headings,
cut the page into bands; in each band the left side is read before the right side, and both are searched for further
columns. Header and footer, set off by white space, come first and last, and turned text after them. A page without
such an edge, or with much turned or any right-to-left text, keeps pypdf's own text. No word is lost either way.

Nothing of this package may be imported here: the PDF worker loads this file by its path.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

from pypdf import PageObject
from pypdf.generic import ArrayObject, ContentStream, NameObject

_PLACING = {b"Td", b"TD", b"Tm", b"T*", b"'", b'"'}
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_SAME_EDGE = 2.0  # points; all other measures are in em, the page's usual font size
_SAME_BASELINE = 0.4  # superscripts belong to the line, the next line does not
_GAP = 0.7  # hardly a space is wider, and no gutter narrower
_SLACK = 0.5  # for lines that seem to start before or to end after an edge, as widths are estimates
_MARGIN_GAP = 1.6  # between the baselines of a footer and the body
_MARGIN = 0.1  # of the text's height, where header and footer are
_FEWEST_STARTS, _FEWEST_LINES, _FEWEST_CHARACTERS = 6, 3, 15  # at an edge; beside it; of the median line beside it
_MOST_EDGES, _MOST_CUTS = 16, 5  # tried; one within the other


class _Run(NamedTuple):
    """Texts that follow each other on a baseline: the numbers of the first and last, and their place."""

    first: int
    last: int
    text: str
    x: float
    right: float
    y: float
    size: float


_Bands = list[tuple[list[_Run], list[_Run]]]


def page_text(page: PageObject) -> str:
    """The page's text, column by column where it has columns, else as `page.extract_text()` gives it."""
    pieces: list[tuple[Any, ...]] = []
    plain = _extract(page, pieces)
    if _RIGHT_TO_LEFT.search(plain):
        return page.extract_text()  # in pieces, such text gets into another order
    upright, turned = _place(pieces)
    if not upright or len(turned) > 0.1 * len(plain) or "".join(piece[0] for piece in pieces) != plain:
        return plain
    em = median(run.size for run in upright)
    edges = _edges(upright)
    top, body, bottom = _margins(_join(upright, edges, em), em)
    blocks = _blocks(body, edges, em, _MOST_CUTS)
    if len(blocks) == 1:
        return plain
    lines = [_line(row).strip() for block in (top, *blocks, bottom) for row in _rows(block, em)]
    return "\n".join([*lines, turned.strip()]).rstrip()


def _extract(page: PageObject, pieces: list[tuple[Any, ...]]) -> str:
    """pypdf's text, and what its visitor gets for every single text, with the width of the gap before it if wide."""
    gap = 0.0

    def before(operator: bytes, operands: list[Any], _cm: object, _tm: object) -> None:
        nonlocal gap
        if operator == b"ET":
            gap = operands[0] if operands else 0.0

    def visit(text: str, *place: Any) -> None:
        if text:
            pieces.append((text, *place))

    try:
        original = page.raw_get("/Contents")
        content = ContentStream(original.get_object(), page.pdf, "bytes")
        content.operations = list(_split(content.operations))
    except Exception:
        return page.extract_text()  # which knows what to make of it
    page[NameObject("/Contents")] = content
    try:
        return page.extract_text(visitor_text=visit, visitor_operand_before=before)
    finally:
        page[NameObject("/Contents")] = original
