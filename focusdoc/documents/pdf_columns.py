"""The text of a PDF page in reading order, column by column.

pypdf gives text in drawing order, and some programs draw a page of columns row by row, across the columns. Here every
text that is placed on its own is taken with its position, and texts that follow each other on a baseline make a run. A
column's left edge is an x at which many runs start and which few cross, with lines of prose beside each other on both
sides (the short cells of tables and labels of lists are no columns). The runs that do cross it, such as wide headings,
cut the page into bands; in each band the left side is read before the right side, and both are searched for further
columns. Header and footer, set off by white space, come first and last, and turned text after them. A page without
such an edge, or with much turned or any right-to-left text, keeps pypdf's own text. No word is lost either way.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any, NamedTuple

from pypdf import PageObject
from pypdf.generic import ArrayObject, ContentStream, NameObject

from focusdoc.documents.pdf_marks import Label, Mark, place

_PLACING = {b"Td", b"TD", b"Tm", b"T*", b"'", b'"'}
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_SAME_EDGE = 2.0  # points; all other measures are in em, the page's usual font size
_SAME_BASELINE = 0.4  # superscripts belong to the line, the next line does not
_GAP = 0.7  # hardly a space is wider, and no gutter narrower
_SLACK = 0.5  # for lines that seem to start before or to end after an edge, as widths are estimates
_MARGIN = 1.6  # between the baselines of header or footer and the body
_FEWEST_STARTS, _FEWEST_LINES, _FEWEST_CHARACTERS = 6, 3, 15  # at an edge; beside it; of the median line beside it
_MOST_EDGES = 16
_MOST_TURNED = 0.1  # of the text


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


def page_text(page: PageObject, marks: Sequence[Mark] = (), pieces: list[tuple[Any, ...]] | None = None) -> str:
    """The page's text, column by column where it has columns, else as `page.extract_text()` gives it.

    Args:
        marks: what is to be put into the text, see `focusdoc.documents.pdf_marks`.
        pieces: is filled with every single text, its place and its font, as pypdf's visitors get them.
    """
    pieces = [] if pieces is None else pieces
    plain = _extract(page, pieces)
    if _RIGHT_TO_LEFT.search(plain):
        plain = page.extract_text()  # in pieces, such text gets into another order
    elif "".join(piece[0] for piece in pieces) == plain:
        with contextlib.suppress(ArithmeticError):  # coordinates beyond all bounds
            runs = _place(pieces)[0] if marks else []
            labels = [Label(run.first, run.x, run.right, run.y) for run in runs]
            texts, marks = place([piece[0] for piece in pieces], labels, marks)
            pieces[:] = [(text, *piece[1:]) for text, piece in zip(texts, pieces, strict=True)]
            plain = "".join(texts)
            plain = _by_columns(pieces) or plain
    return "\n".join([plain.rstrip(), *(mark.line for mark in marks)]).lstrip("\n") if marks else plain


def _by_columns(pieces: list[tuple[Any, ...]]) -> str | None:
    upright, turned = _place(pieces)
    if sum(map(len, turned)) > _MOST_TURNED * sum(len(run.text) for run in upright) or not upright:
        return None
    em = median(run.size for run in upright)
    rows = _rows(_join(upright, em), em)
    first = int(len(rows) > 1 and rows[0][-1].y - rows[1][0].y > _MARGIN * em)
    last = len(rows) - int(len(rows) > 2 and rows[-2][-1].y - rows[-1][0].y > _MARGIN * em)
    blocks = _blocks([run for row in rows[first:last] for run in row], _edges(upright), em, _FEWEST_LINES)
    rows[first:last] = [row for block in blocks for row in _rows(block, em)]
    lines = [_line(row).strip() for row in rows] + [text.strip() for text in turned]
    return "\n".join(lines).rstrip() if len(blocks) > 1 else None


def _extract(page: PageObject, pieces: list[tuple[Any, ...]]) -> str:
    """pypdf's text; the pieces become what its visitor gets for every single text, and how wide a gap follows it."""
    gap = 0.0

    def before(operator: bytes, operands: list[float], _cm: object, _tm: object) -> None:
        nonlocal gap
        if operator == b"ET":
            gap = operands[0] if operands else 0.0

    def visit(text: str, *place: Any) -> None:
        nonlocal gap
        if text:
            pieces.append((text, *place, gap))
        gap = 0.0

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


def _split(operations: list[tuple[Any, bytes]]) -> Iterator[tuple[Any, bytes]]:
    """The operations with an ET, at which pypdf hands its text over (and no more), before each move and in wide gaps.

    In a gap, the ET's operand is the gap's width, less what kerning has taken from the text before it.
    """
    for operands, operator in operations:
        if operator in _PLACING:
            yield [], b"ET"
        elif operator == b"TJ" and operands and isinstance(operands[0], ArrayObject):
            part = ArrayObject()
            for item in operands[0]:
                part.append(item)
                if isinstance(item, (int, float)) and item < -1000 * _GAP and isinstance(part[0], bytes):
                    yield [part], b"TJ"
                    kerning = sum(number for number in part[:-1] if isinstance(number, (int, float)) and number > -100)
                    yield [-item - kerning], b"ET"  # pypdf makes a space of what is less
                    part = ArrayObject()
            operands = [part]
        yield operands, operator


def _place(pieces: list[tuple[Any, ...]]) -> tuple[list[_Run], list[str]]:
    """The upright pieces, each a run, and the texts of the others; widths are estimates, rather too small."""
    upright: list[_Run] = []
    turned: list[str] = []
    fonts: dict[int, dict[str, float]] = {}
    before: Any = None
    end = 0.0  # of the text before, from where that was placed; a text that was not itself placed starts there
    for number, (text, cm, tm, font, size, gap) in enumerate(pieces):
        scale, slope = tm[0] * cm[0] + tm[1] * cm[2], tm[0] * cm[1] + tm[1] * cm[3]
        height = size * (tm[2] * cm[1] + tm[3] * cm[3])
        start = end if (cm, tm) == before else 0.0
        x, y = tm[4] * cm[0] + tm[5] * cm[2] + cm[4] + start, tm[4] * cm[1] + tm[5] * cm[3] + cm[5]
        if id(font) not in fonts:
            fonts[id(font)] = _widths(font)
        width = sum(fonts[id(font)].get(character, 0.45) for character in text.strip()) * size * scale
        before, end = (cm, tm), start + width + gap / 1000 * size * scale
        if not all(map(math.isfinite, (x, y, width, height))):
            return [], []
        if not text.strip():
            continue
        if scale <= 0 or height <= 0 or abs(slope) > 0.1 * scale:
            turned.append(text)
        else:
            upright.append(_Run(number, number, text, x, x + 0.95 * width, y, height))
    return upright, turned


def _widths(font: Any) -> dict[str, float]:
    """Widths of a font's characters in em, as if every character were its code."""
    try:
        unit = float(font["/FontMatrix"][0]) if "/FontMatrix" in font else 0.001
        widths = enumerate(font["/Widths"], start=int(font["/FirstChar"]))
        return {" ": 0.3} | {chr(code): float(width) * unit for code, width in widths if width > 0}
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


def _join(pieces: list[_Run], em: float) -> list[_Run]:
    """Runs of pieces drawn one after the other, without a gap, on a baseline."""
    runs: list[_Run] = []
    for piece in pieces:
        run = runs[-1] if runs else piece
        if abs(piece.y - run.y) < _SAME_BASELINE * em and run.x < piece.x < run.right + _GAP * em:
            right = max(run.right, piece.right)
            runs[-1] = run._replace(last=piece.last, text=_line([run, piece]), right=right)
        else:
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


def _blocks(runs: list[_Run], edges: list[float], em: float, fewest: int) -> list[list[_Run]]:
    """The runs, cut at the leftmost edge for which about the most lines speak, and so on; to be read line by line."""
    rows = _rows(runs, em)
    cuts: dict[float, tuple[int, _Bands]] = {}
    for edge in edges:
        bands = _bands(rows, edge, em)
        sides = [min(len(left), len(right)) for left, right in bands if _are_columns(left, right, em)]
        lines = sum(count for count in sides if count >= fewest)
        if lines >= 2 * fewest:
            cuts[edge] = lines - sum(not right for _, right in bands), bands
    if not cuts:
        return [runs]
    best = max(score for score, _ in cuts.values())
    chosen = next(edge for edge, (score, _) in cuts.items() if score >= best - 0.1 * abs(best))
    others = [edge for edge in cuts if edge != chosen]  # where the page has columns, few lines will do
    blocks: list[list[_Run]] = []
    for left, right in cuts[chosen][1]:
        if _are_columns(left, right, em):
            blocks += _blocks(left, others, em, 1) + _blocks(right, others, em, 1)
        else:
            blocks.append(left + right)
    return blocks


def _bands(rows: list[list[_Run]], edge: float, em: float) -> _Bands:
    """What is left and right of the edge, from one row that crosses it to the next; such a row has nothing right."""
    bands: _Bands = []
    crossed = True
    for row in rows:
        left = [run for run in row if run.x < edge - _SLACK * em]
        before, crossed = crossed, any(run.right > edge + _SLACK * em for run in left)
        if crossed:
            bands.append((row, []))
            continue
        if before:
            bands.append(([], []))
        bands[-1][0].extend(left)
        bands[-1][1].extend(run for run in row if run.x >= edge - _SLACK * em)
    return bands


def _are_columns(left: list[_Run], right: list[_Run], em: float) -> bool:
    """Whether both sides are lines of prose, and most of them beside each other."""
    if not all(side and median(len(run.text) for run in side) >= _FEWEST_CHARACTERS for side in (left, right)):
        return False
    heights = {round(run.y / em) for run in left}
    beside = sum(not heights.isdisjoint(range(round(run.y / em) - 1, round(run.y / em) + 2)) for run in right)
    return 2 * beside >= min(len(left), len(right))
