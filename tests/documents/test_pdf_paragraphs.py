"""PDFs have no paragraphs; blank lines mark where white space, an indent or a heading shows one."""

from __future__ import annotations

import pytest
from document_samples import page_pdf, text_pdf
from hypothesis import given
from hypothesis import strategies as st

from focusdoc.documents import load
from focusdoc.documents.joining import without_page_numbers
from focusdoc.documents.pdf_paragraphs import Line, line_distance, paragraph_starts

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "most", "others", "look", "on"]


def line_of(number: int) -> str:
    """A line of prose that starts in lower case."""
    return " ".join(WORDS[(number + k) % len(WORDS)] for k in range(6))


def page(lines: list[tuple[float, float, float, str]]) -> bytes:
    """A page with lines (x, y, font size, text)."""
    drawn = (b"/F1 %.1f Tf 1 0 0 1 %.1f %.1f Tm (%s) Tj\n" % (size, x, y, text.encode()) for x, y, size, text in lines)
    return page_pdf(b"BT " + b"".join(drawn) + b"ET")


def parts_of(data: bytes) -> list[list[str]]:
    return [part.split("\n") for part in load(data).text.split("\n\n")]


@given(st.lists(st.tuples(st.integers(1, 6), st.sampled_from([16.0, 24.0, 40.0])), min_size=1, max_size=8))
def test_white_space_parts_paragraphs(shape: list[tuple[int, float]]) -> None:
    shape[0] = 6, shape[0][1]  # or no distance of two lines would be the most common one
    paragraphs, lines, y = [], [], 700.0
    for length, above in shape:
        y -= above - 12
        paragraphs.append([])
        for _ in range(length):
            y -= 12
            paragraphs[-1].append(line_of(len(lines)))
            lines.append((54.0, y, 10.0, paragraphs[-1][-1]))
    distance = line_distance([[Line(x, y, size) for x, y, size, _ in lines]])
    starts = paragraph_starts([Line(x, y, size) for x, y, size, _ in lines], 10, distance)
    firsts = [sum(map(len, paragraphs[:index])) for index in range(1, len(paragraphs))]
    assert starts == set(firsts)


@pytest.mark.parametrize("columns", [1, 2])
def test_white_space_parts_them_on_a_page_with_and_without_columns(columns: int) -> None:
    lines = [
        (54.0 + 266 * column, 700.0 - 12 * row - 6 * (row // 5), 10.0, line_of(20 * column + row))
        for row in range(20)
        for column in range(columns)
    ]
    parts = parts_of(page(lines))
    assert [len(part) for part in parts] == [5] * 4 * columns or columns == 2
    assert [len(part) for part in parts] == ([5] * 4 if columns == 1 else [5, 5, 5, 10, 5, 5, 5])  # a sentence goes on


def test_an_indent_starts_one() -> None:
    lines = [(66.0 if row in (0, 4, 9) else 54.0, 700.0 - 12 * row, 10.0, line_of(row)) for row in range(14)]
    assert [len(part) for part in parts_of(page(lines))] == [4, 5, 5]


def test_hanging_and_wholly_indented_lines_start_none() -> None:
    hanging = [(54.0 if row % 3 == 0 else 66.0, 700.0 - 12 * row, 10.0, line_of(row)) for row in range(12)]
    block = [(54.0 if row < 6 else 90.0, 700.0 - 12 * row, 10.0, line_of(row)) for row in range(12)]
    assert len(parts_of(page(hanging))) == len(parts_of(page(block))) == 1


def test_a_heading_of_two_lines_is_one_paragraph() -> None:
    body = [(54.0, 640.0 - 12 * row, 10.0, line_of(row)) for row in range(9)]
    heading = [(54.0, 680.0, 16.0, "How To Be Taxed as"), (54.0, 661.0, 16.0, "a Resident Alien")]
    before = [(54.0, 780.0 - 12 * row, 10.0, line_of(row)) for row in range(6)]
    assert [len(part) for part in parts_of(page([*before, *heading, *body]))] == [6, 2, 9]


def test_a_large_bullet_is_no_heading() -> None:
    lines = []
    for row in range(12):
        if row % 4 == 0:
            lines.append((54.0, 700.0 - 12 * row, 14.0, "o"))
        lines.append((66.0, 700.0 - 12 * row, 10.0, line_of(row)))
    assert len(parts_of(page(lines))) == 1


@pytest.mark.parametrize(
    ("pages", "text"),
    [
        (["He went to the", "barn and left."], "He went to the\nbarn and left."),
        (["He went home.", "she stayed."], "He went home.\n\nshe stayed."),
        (["He went to the", "Barn and left."], "He went to the\n\nBarn and left."),
    ],
    ids=["in a sentence", "at its end", "a capital"],
)
def test_a_sentence_goes_on_over_the_end_of_a_page(pages: list[str], text: str) -> None:
    document = load(text_pdf(pages))
    assert document.text == text
    assert document.page_at(text.index(pages[1][1:])).number == 2


class TestPageNumbers:
    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ("- {} -", "- {} -"),
            ("{} A Book", "Chapter Two {}"),
            ("Page {} of 9, 7:48", "Page {} of 9, 7:48"),
            ("A Book 12 {}", "{}"),
        ],
    )
    @pytest.mark.parametrize("at_top", [True, False])
    def test_lines_with_them_go_but_the_first(self, first: str, second: str, at_top: bool) -> None:
        numbered = [(second if n % 2 else first).format(n + 5) for n in range(6)]
        bodies = [f"Words\nand more {n * n}" for n in range(6)]
        pages = [
            f"{number}\n{body}" if at_top else f"{body}\n{number}"
            for number, body in zip(numbered, bodies, strict=True)
        ]
        assert without_page_numbers(pages) == [pages[0], *bodies[1:]]

    @pytest.mark.parametrize(
        "pages",
        [
            ["Table 1\na", "Table 2\nb", "c", "d", "e", "f", "g"],  # not on half of the pages
            ["1\na", "2\nb"],  # too few
            ["7\na", "3\nb", "11\nc", "x 4\nd"],  # not counting
            ["one", "", "two"],
            [],
        ],
    )
    def test_other_numbers_stay(self, pages: list[str]) -> None:
        assert without_page_numbers(pages) == pages

    def test_a_page_with_nothing_else_is_empty(self) -> None:
        assert without_page_numbers(["a\n1", "2", "b\n3", "c\n4"]) == ["a\n1", "", "b", "c"]

    @given(st.lists(st.text(alphabet="ab 12\n.-", max_size=30), max_size=12))
    def test_nothing_else_is_lost(self, pages: list[str]) -> None:
        for page, shown in zip(pages, without_page_numbers(pages), strict=True):
            left, lines = shown.strip().split("\n"), page.strip().split("\n")
            assert len(lines) - len(left) <= 2
            assert not shown or shown.strip() in page
