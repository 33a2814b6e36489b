"""Small digits above or below the line behind a number of a PDF are not read as part of the number."""

from __future__ import annotations

import pytest
from document_samples import fixed_pitch

from focusdoc.documents import load


def text_of(number: str, *small: tuple[float, float, str]) -> str:
    """The text of a line with a number in 10 points, and behind it small pieces (size, raised by, text)."""
    content = f"BT /F1 10 Tf 1 0 0 1 54 700 Tm (costs {number}) Tj "
    x = 54 + 5 * len(f"costs {number}")
    for size, raised, text in small:
        content += f"/F1 {size} Tf 1 0 0 1 {x} {700 + raised} Tm ({text}) Tj "
        x += size * len(text) / 2
    return load(fixed_pitch(f"{content} ET".encode())).text


@pytest.mark.parametrize(
    ("small", "text"),
    [
        ([(6, 4, "2")], "costs 10^2"),  # an exponent, or the mark of a footnote
        ([(6, -2, "2")], "costs 10_2"),
        ([(6, 3, "1"), (6, 0, "/"), (6, -1, "2")], "costs 10 1/2"),
        ([(6, 3, "1/2")], "costs 10 1/2"),
    ],
)
def test_they_are_set_apart(small: list[tuple[float, float, str]], text: str) -> None:
    assert text_of("10", *small) == text


@pytest.mark.parametrize(
    ("number", "small", "text"),
    [
        ("10", (10, 0, "2"), "costs 102"),  # drawn in two pieces
        ("10", (10, 4, "2"), "costs 102"),  # not small
        ("10", (6, 0, "2"), "costs 102"),  # on the line
        ("H", (6, -2, "2"), "costs H2"),
        ("10", (6, 4, "th"), "costs 10th"),
    ],
)
def test_other_pieces_stay_together(number: str, small: tuple[float, float, str], text: str) -> None:
    assert text_of(number, small) == text
