"""The text of a PDF page in reading order, column by column.

pypdf gives text in drawing order, and some programs draw a page of columns row by row, across the columns. Here every
piece of text that is placed on its own is taken with its position, and pieces that follow each other on a baseline
make a run. A column's left edge is an x at which many runs start and which few runs cross, with lines of prose on both
sides at the same height; tables and lists, whose cells are short, are no columns. The runs that cross the edge (wide
headings and figures) cut the page into bands; in each band, the left side is read before the right side, and both are
searched for further columns. Header and footer, set off by white space, are read first and last, turned text after
them. A page without such an edge, or with much turned or any right-to-left text, keeps pypdf's own text.

Nothing of this package may be imported here: the PDF worker loads this file by its path.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

from pypdf import PageObject
from pypdf.generic import ContentStream, NameObject

_PLACING = {b"Td", b"TD", b"Tm", b"T*", b"'", b'"'}
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
# Measures in em are in units of the page's usual font size.
_SAME_EDGE = 2.0  # points
_SAME_BASELINE = 0.4  # em: superscripts belong to the line, the next line does not
_WORD_GAP = 0.7  # em: hardly a space is wider, and no gutter narrower
_OVERHANG = 0.5  # em that a line may reach over the next column's edge, as widths are estimates
_MARGIN_GAP = 1.6  # em between the baselines of a footer and the body
_MARGIN = 0.1  # of the text's height, where header and footer are
_FEWEST_STARTS = 6  # runs that make their x an edge
_FEWEST_LINES = 3  # on either side of an edge, for a band to speak for columns; twice as many in all
_FEWEST_CHARACTERS = 15  # of the median run on either side
_MOST_EDGES = 16
_MOST_CUTS = 5  # one in the other
_MOST_TURNED = 0.1  # of the characters

_Piece = tuple[str, list[float], list[float], Any, float]  # text, cm, tm, font and size, as pypdf's visitor gets them


class _Run(NamedTuple):
    """Pieces of text that follow each other on a baseline: the numbers of the first and last, and their place."""

    first: int
    last: int
    text: str
    x: float
    right: float
    y: float
    size: float


def page_text(page: PageObject) -> str:
    """The page's text, column by column where it has columns, else as `page.extract_text()` gives it."""
    pieces: list[_Piece] = []
    plain = _extract_in_pieces(page, lambda *piece: pieces.append(piece))
    if _RIGHT_TO_LEFT.search(plain):
        return page.extract_text()  # in pieces, such text gets into another order
    upright, turned = _place(pieces)
    if not upright or len(turned) > _MOST_TURNED * len(plain) or "".join(text for text, *_ in pieces) != plain:
        return plain
    em = median(run.size for run in upright)
    edges = _edges(upright)
    top, body, bottom = _margins(_join(upright, edges, em), em)
    blocks = _blocks(body, edges, em, _MOST_CUTS)
    if len(blocks) == 1:
        return plain
    lines = [_line(row).strip() for block in (top, *blocks, bottom) for row in _rows(block, em)]
    return "\n".join([*lines, turned.strip()]).rstrip()


def _extract_in_pieces(page: PageObject, visitor: Callable[..., None]) -> str:
    """pypdf's text, with a visitor that gets every text placed on its own (pypdf itself joins them to lines)."""
    try:
        original = page.raw_get("/Contents")
        content = ContentStream(original.get_object(), page.pdf, "bytes")
        operations: list[tuple[Any, bytes]] = []
        for operation in content.operations:
            if operation[1] in _PLACING:
                operations.append(([], b"ET"))  # makes pypdf hand over what it has, and changes nothing else
            operations.append(operation)
    except Exception:
        return page.extract_text(visitor_text=visitor)  # which knows what to make of it
    content.operations = operations
    page[NameObject("/Contents")] = content
    try:
        return page.extract_text(visitor_text=visitor)
    finally:
        page[NameObject("/Contents")] = original


def _place(pieces: list[_Piece]) -> tuple[list[_Run], str]:
    """The upright pieces, each a run, and the text of the others; widths are estimates, rather too small."""
    upright: list[_Run] = []
    turned = ""
    fonts: dict[int, dict[str, float]] = {}
    for number, (text, cm, tm, font, size) in enumerate(pieces):
        if not text.strip():
            continue
        across, slope = tm[0] * cm[0] + tm[1] * cm[2], tm[0] * cm[1] + tm[1] * cm[3]
        up = tm[2] * cm[1] + tm[3] * cm[3]
        x, y = tm[4] * cm[0] + tm[5] * cm[2] + cm[4], tm[4] * cm[1] + tm[5] * cm[3] + cm[5]
        if not all(map(math.isfinite, (x, y, size * across, size * up))):
            return [], ""
        if across <= 0 or up <= 0 or abs(slope) > 0.1 * across:
            turned += text
            continue
        if id(font) not in fonts:
            fonts[id(font)] = _widths(font)
        widths = fonts[id(font)]
        width = 0.95 * sum(widths.get(character, 500.0) for character in text.strip()) / 1000 * size * across
        upright.append(_Run(number, number, text, x, x + width, y, size * up))
    return upright, turned


def _widths(font: Any) -> dict[str, float]:
    """Widths of a font's characters, in thousandths of its size, as if every character were its code."""
    try:
        first = int(font["/FirstChar"])
        return {chr(code): float(width) for code, width in enumerate(font["/Widths"], start=first) if width > 0}
    except Exception:
        return {}


def _edges(runs: list[_Run]) -> list[float]:
    """The x at which most runs start, from left to right."""
    groups: list[list[float]] = []
    for x in sorted(run.x for run in runs):
        if not groups or x > groups[-1][0] + _SAME_EDGE:
            groups.append([])
        groups[-1].append(x)
    groups = sorted((group for group in groups if len(group) >= _FEWEST_STARTS), key=len)
    return sorted(group[0] for group in groups[-_MOST_EDGES:])


def _join(pieces: list[_Run], edges: list[float], em: float) -> list[_Run]:
    """Runs of pieces drawn one after the other, without a gap, on a baseline; an edge starts a new one."""
    runs: list[_Run] = []
    for piece in pieces:
        if runs:
            run = runs[-1]
            level = abs(piece.y - run.y) < _SAME_BASELINE * em
            close = run.x < piece.x < run.right + _WORD_GAP * em
            if level and close and not any(0 <= piece.x - edge <= _SAME_EDGE for edge in edges):
                right = max(run.right, piece.right)
                runs[-1] = run._replace(last=piece.last, text=_line([run, piece]), right=right)
                continue
        runs.append(piece)
    return runs


def _line(runs: list[_Run]) -> str:
    """The runs' text, from left to right; pypdf has put the spaces between what was drawn one after the other."""
    text = ""
    last = -1
    for run in sorted(runs, key=lambda run: run.x):
        apart = last >= 0 and (run.first != last + 1 or text.endswith("\n"))
        text = f"{text.rstrip()} {run.text.lstrip()}" if apart else text + run.text
        last = run.last
    return text


def _rows(runs: list[_Run], em: float) -> list[list[_Run]]:
    """The runs by their baselines, from top to bottom."""
    rows: list[list[_Run]] = []
    for run in sorted(runs, key=lambda run: -run.y):
        if not rows or rows[-1][0].y - run.y > _SAME_BASELINE * em:
            rows.append([])
        rows[-1].append(run)
    return rows


def _margins(runs: list[_Run], em: float) -> tuple[list[_Run], list[_Run], list[_Run]]:
    """Header, body and footer."""
    rows = _rows(runs, em)
    top, bottom = rows[0][0].y, rows[-1][-1].y
    start, end = 0, len(rows)
    for index, (row, following) in enumerate(pairwise(rows), start=1):
        if row[-1].y - following[0].y > _MARGIN_GAP * em:
            if top - row[-1].y <= _MARGIN * (top - bottom):
                start = index
            elif following[0].y - bottom <= _MARGIN * (top - bottom):
                end = min(end, index)
    flat = [[run for row in part for run in row] for part in (rows[:start], rows[start:end], rows[end:])]
    return flat[0], flat[1], flat[2]


def _blocks(runs: list[_Run], edges: list[float], em: float, cuts: int) -> list[list[_Run]]:
    """The runs cut at the edge that most lines speak for, and so on; each block is read line by line."""
    rows = _rows(runs, em)
    best = 0
    chosen: list[tuple[list[_Run], list[_Run]]] = []
    for edge in edges if cuts else []:
        bands = _bands(rows, edge, em)
        sides = [min(len(left), len(right)) for left, right in bands if _are_columns(left, right)]
        score = sum(2 * lines for lines in sides if lines >= _FEWEST_LINES)
        wide = len(rows)
        if score > best:
            best, chosen = score, bands
    return [runs]
