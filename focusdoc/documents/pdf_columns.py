"""The text of a PDF page in reading order, column by column.

pypdf extracts text in drawing order, and some programs draw a page of columns row by row, across the columns. Here each
piece of text is extracted with its position, and adjacent pieces on a baseline are joined to runs. A column's left edge
is an x at which many runs start and which few cross, with lines of prose side by side (short table cells and labels are
not columns). The runs that cross the edge, such as wide headings, split the page into bands; in each band the left
side is read before the right side, and both are split recursively. Header and footer, separated by white space, come
first and last, and rotated text after them. A page without such an edge, with much rotated text, or with right-to-left
text keeps pypdf's order. No word is lost either way, and blank lines part the paragraphs.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from statistics import median
from typing import Any

from pypdf import PageObject

from focusdoc.documents.pdf_marks import Label, Mark, insert_marks
from focusdoc.documents.pdf_paragraphs import Line, join_blocks, line_distance, paragraph_starts
from focusdoc.documents.pdf_pieces import GAP, Run, extract, mark_scripts, place

_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_SAME_EDGE = 2.0  # points; all other measures are in em, the page's median font size
_SAME_BASELINE = 0.4  # superscripts belong to the line, the next line does not
_SLACK = 0.5  # for lines that seem to cross an edge, since widths are estimates
_MARGIN = 1.6  # between the baselines of header or footer and the body
_MIN_STARTS, _MIN_LINES, _MIN_CHARACTERS = 6, 3, 15  # at an edge; on each side; of the median line on each side
_MAX_EDGES = 16
_MAX_ROTATED = 0.1  # share of the text

_Bands = list[tuple[list[Run], list[Run]]]


def page_text(page: PageObject, marks: Sequence[Mark] = (), pieces: list[tuple[Any, ...]] | None = None) -> str:
    """The page's text, column by column if it has columns, else in the order of `page.extract_text()`.

    Args:
        marks: to insert into the text, see `focusdoc.documents.pdf_marks`.
        pieces: receives every piece of text with its position and font, as pypdf passes them to visitors.
    """
    pieces = [] if pieces is None else pieces
    plain = extract(page, pieces)
    if _RIGHT_TO_LEFT.search(plain):
        plain = page.extract_text()  # extraction in pieces would change the order
    elif "".join(piece[0] for piece in pieces) == plain:
        with contextlib.suppress(ArithmeticError):  # coordinates out of bounds
            runs, _ = place(pieces)
            labels = [Label(run.first, run.x, run.right, run.y) for run in runs]
            texts, marks = insert_marks(mark_scripts([piece[0] for piece in pieces], runs), labels, marks)
            pieces[:] = [(text, *piece[1:]) for text, piece in zip(texts, pieces, strict=True)]
            upright, rotated = place(pieces)
            plain = _by_columns(upright, rotated) or _by_paragraphs(texts, upright)
    return "\n".join([plain.rstrip(), *(mark.line for mark in marks)]).lstrip("\n") if marks else plain


def _by_columns(upright: list[Run], rotated: list[str]) -> str | None:
    if sum(map(len, rotated)) > _MAX_ROTATED * sum(len(run.text) for run in upright) or not upright:
        return None
    em = median(run.size for run in upright)
    rows = _rows(_join(upright, em), em)
    first = int(len(rows) > 1 and rows[0][-1].y - rows[1][0].y > _MARGIN * em)
    last = len(rows) - int(len(rows) > 2 and rows[-2][-1].y - rows[-1][0].y > _MARGIN * em)
    blocks = _blocks([run for row in rows[first:last] for run in row], _edges(upright), em, _MIN_LINES)
    if len(blocks) == 1:
        return None
    parts = [rows[:first], *(_rows(block, em) for block in blocks), rows[last:]]
    places = [[_line_of(row) for row in part] for part in parts]
    distance = line_distance(places)
    texts = []
    for part, lines in zip(parts, places, strict=True):
        starts = paragraph_starts(lines, em, distance)
        texts.append("".join("\n" * (1 + (n in starts)) + _line(row).strip() for n, row in enumerate(part)).strip())
    return join_blocks([*texts, "\n".join(text.strip() for text in rotated)]).rstrip()


def _by_paragraphs(texts: list[str], upright: list[Run]) -> str:
    """The pieces' texts in pypdf's order, with a blank line before each paragraph; `upright` are those on lines."""
    texts = list(texts)
    lines: list[list[Run]] = []
    end = 0
    for run in upright:
        between = "".join(texts[end : run.first]) + run.text[: len(run.text) - len(run.text.lstrip())]
        if not lines or "\n" in texts[end - 1][len(texts[end - 1].rstrip()) :] + between:
            lines.append([])
        lines[-1].append(run)
        end = run.first + 1
    em = median(run.size for run in upright) if upright else 1.0
    places = [_line_of(line) for line in lines]
    for index in paragraph_starts(places, em, line_distance([places])):
        number = lines[index][0].first
        texts[number] = "\n" + texts[number]
    return "".join(texts)


def _edges(runs: list[Run]) -> list[float]:
    """The x at which most runs start, from left to right."""
    groups: list[list[float]] = []
    for x in sorted(run.x for run in runs):
        if not groups or x > groups[-1][0] + _SAME_EDGE:
            groups.append([])
        groups[-1].append(x)
    groups = sorted((group for group in groups if len(group) >= _MIN_STARTS), key=len)
    return sorted(group[0] for group in groups[-_MAX_EDGES:])


def _join(pieces: list[Run], em: float) -> list[Run]:
    """Join pieces that are drawn in sequence on a baseline without a gap."""
    runs: list[Run] = []
    for piece in pieces:
        run = runs[-1] if runs else piece
        if abs(piece.y - run.y) < _SAME_BASELINE * em and run.x < piece.x < run.right + GAP * em:
            size = max(run, piece, key=lambda each: len(each.text)).size  # a bullet may have another one
            text, right = _line([run, piece]), max(run.right, piece.right)
            runs[-1] = run._replace(last=piece.last, text=text, right=right, size=size)
        else:
            runs.append(piece)
    return runs


def _line(runs: list[Run]) -> str:
    """The text of runs from left to right; between pieces drawn in sequence pypdf has inserted the spaces."""
    text = ""
    last = -1
    for run in sorted(runs, key=lambda run: run.x):
        apart = last >= 0 and (run.first != last + 1 or text.endswith("\n"))
        text = f"{text.rstrip()} {run.text.lstrip()}" if apart else text + run.text
        last = run.last
    return text


def _line_of(row: list[Run]) -> Line:
    longest = max(row, key=lambda run: len(run.text))
    return Line(min(run.x for run in row), longest.y, longest.size)


def _rows(runs: list[Run], em: float) -> list[list[Run]]:
    """The runs grouped by baseline, from top to bottom."""
    rows: list[list[Run]] = []
    for run in sorted(runs, key=lambda run: -run.y):
        if not rows or rows[-1][0].y - run.y > _SAME_BASELINE * em:
            rows.append([])
        rows[-1].append(run)
    return rows


def _blocks(runs: list[Run], edges: list[float], em: float, fewest: int) -> list[list[Run]]:
    """Split runs into blocks in reading order, recursively, at the leftmost edge with about the best score."""
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
    others = [edge for edge in cuts if edge != chosen]  # within columns, fewer lines are enough
    blocks: list[list[Run]] = []
    for left, right in cuts[chosen][1]:
        if _are_columns(left, right, em):
            blocks += _blocks(left, others, em, 1) + _blocks(right, others, em, 1)
        else:
            blocks.append(left + right)
    return blocks


def _bands(rows: list[list[Run]], edge: float, em: float) -> _Bands:
    """Split rows into bands of (left, right) runs; a row that crosses the edge is its own band, all on the left."""
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


def _are_columns(left: list[Run], right: list[Run], em: float) -> bool:
    """Whether both sides are lines of prose, most of them side by side."""
    if not all(side and median(len(run.text) for run in side) >= _MIN_CHARACTERS for side in (left, right)):
        return False
    heights = {round(run.y / em) for run in left}
    beside = sum(not heights.isdisjoint(range(round(run.y / em) - 1, round(run.y / em) + 2)) for run in right)
    return 2 * beside >= min(len(left), len(right))
