"""The pieces of text of a PDF page, with their positions, as pypdf draws them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from pypdf import PageObject
from pypdf.generic import ArrayObject, ContentStream, NameObject

_PLACING = {b"Td", b"TD", b"Tm", b"T*", b"'", b'"'}
#: A gap in em: wider than nearly all spaces, narrower than all gutters.
GAP = 0.7
#: Digits behind a number that are not part of it: their largest font size, relative to that of the number, and how far
#: from it they may be, to the side, up and down, in em.
_SMALL, _NEAR, _RAISED, _LOWERED = 0.85, 1.0, (0.1, 0.7), (-0.5, -0.08)
_FRACTION = re.compile(r"\d+\s*[/\N{FRACTION SLASH}]")


class Run(NamedTuple):
    """Adjacent pieces on a baseline: the indices of the first and last piece, and the position."""

    first: int
    last: int
    text: str
    x: float
    right: float
    y: float
    size: float


def extract(page: PageObject, pieces: list[tuple[Any, ...]]) -> str:
    """pypdf's text; fills `pieces` with the visitor's arguments for every piece, and the width of the gap after it."""
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
        return page.extract_text()  # without positions
    page[NameObject("/Contents")] = content
    try:
        return page.extract_text(visitor_text=visit, visitor_operand_before=before)
    finally:
        page[NameObject("/Contents")] = original


def _split(operations: list[tuple[Any, bytes]]) -> Iterator[tuple[Any, bytes]]:
    """The operations with an ET inserted before each move and in wide gaps, so that pypdf calls the visitor there.

    In a gap, the ET's operand is the gap's width, minus the kerning of the text before it.
    """
    for operands, operator in operations:
        if operator in _PLACING:
            yield [], b"ET"
        elif operator == b"TJ" and operands and isinstance(operands[0], ArrayObject):
            part = ArrayObject()
            for item in operands[0]:
                part.append(item)
                if isinstance(item, (int, float)) and item < -1000 * GAP and isinstance(part[0], bytes):
                    yield [part], b"TJ"
                    kerning = sum(number for number in part[:-1] if isinstance(number, (int, float)) and number > -100)
                    yield [-item - kerning], b"ET"  # pypdf turns smaller ones into spaces
                    part = ArrayObject()
            operands = [part]
        yield operands, operator


def place(pieces: list[tuple[Any, ...]]) -> tuple[list[Run], list[str]]:
    """The upright pieces, each as a run, and the texts of the rotated ones; widths are (low) estimates."""
    upright: list[Run] = []
    rotated: list[str] = []
    fonts: dict[int, dict[str, float]] = {}
    before: Any = None
    end = 0.0  # of the previous piece, relative to its position; a piece without its own position starts there
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
            rotated.append(text)
        else:
            upright.append(Run(number, number, text, x, x + 0.95 * width, y, height))
    return upright, rotated


def _widths(font: Any) -> dict[str, float]:
    """Widths of a font's characters in em, assuming that characters equal their codes."""
    try:
        unit = float(font["/FontMatrix"][0]) if "/FontMatrix" in font else 0.001
        widths = enumerate(font["/Widths"], start=int(font["/FirstChar"]))
        return {" ": 0.3} | {chr(code): float(width) * unit for code, width in widths if width > 0}
    except Exception:
        return {}


def mark_scripts(texts: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """The pieces' texts with marks before small digits behind a digit, which would be read as part of the number.

    These are "^" if they are raised, "_" if they are lowered, and a space before a fraction.

    Args:
        texts: of all pieces. runs: the upright ones, in order.
    """
    marked = list(texts)
    for number, digits in pairwise(runs):
        if not (number.text[-1:].isdigit() and digits.text[:1].isdigit() and digits.first == number.last + 1):
            continue
        if digits.size > _SMALL * number.size or abs(digits.x - number.right) > _NEAR * number.size:
            continue
        raised = (digits.y - number.y) / number.size
        if _RAISED[0] < raised < _RAISED[1]:
            is_fraction = _FRACTION.match("".join(texts[digits.first : digits.first + 3]))
            marked[digits.first] = (" " if is_fraction else "^") + texts[digits.first]
        elif _LOWERED[0] < raised < _LOWERED[1]:
            marked[digits.first] = "_" + texts[digits.first]
    return marked
