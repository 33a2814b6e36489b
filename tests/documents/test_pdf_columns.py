"""PDFs in columns: the order in which their text is read."""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from document_samples import fixed_pitch, page_pdf, raw_pdf
from pypdf import PdfReader

from focusdoc.documents import load, pdf_columns
from focusdoc.documents.pdf_columns import page_text

PDFS = Path(__file__).parents[2].parent / "shared" / "data" / "pdf"
FORM = PDFS / "i1040nr.pdf"
needs_pdfs = pytest.mark.skipif(not FORM.exists(), reason=f"needs the real PDFs in {PDFS}")

Placed = tuple[float, float, str]  # x, y, text
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "most", "others", "look", "on"]


def column(name: str, num_lines: int) -> list[str]:
    """Lines of prose, of different lengths, each with its column's name and its number."""
    return [f"{name}{n} " + " ".join(WORDS[(n + k) % len(WORDS)] for k in range(4 + n % 2)) for n in range(num_lines)]


def across(columns: list[list[str]], lefts: list[float], top: float = 700, shift: float = 0) -> list[Placed]:
    """The columns' lines row by row, with each column's baselines shifted against those of the one before."""
    rows = range(max(map(len, columns)))
    return [
        (left, top - 12 * row - shift * index, lines[row])
        for row in rows
        for index, (lines, left) in enumerate(zip(columns, lefts, strict=True))
        if row < len(lines)
    ]


def drawn(placed: list[Placed], extra: bytes = b"") -> bytes:
    """A page with these texts in this order, each moved to from the one before."""
    content = b"BT /F1 10 Tf "
    x, y = 0.0, 0.0
    for to_x, to_y, text in placed:
        content += b"%.2f %.2f Td (%s) Tj\n" % (to_x - x, to_y - y, text.encode("latin-1"))
        x, y = to_x, to_y
    return page_pdf(content + b"ET " + extra)


def plain(data: bytes) -> str:
    return PdfReader(io.BytesIO(data)).pages[0].extract_text().rstrip()


def lines_of(*columns: list[str]) -> str:
    return "\n\n".join("\n".join(lines) for lines in columns)


@pytest.mark.parametrize("shift", [0, 0.4, 4.3])
@pytest.mark.parametrize("lefts", [[54, 320], [40, 220, 400]])
def test_columns_drawn_row_by_row_are_read_one_after_the_other(lefts: list[float], shift: float) -> None:
    columns = [column(name, 30) for name, _ in zip("ABC", lefts, strict=False)]
    data = drawn(across(columns, lefts, shift=shift))
    assert load(data).text == lines_of(*columns)
    assert plain(data) != load(data).text


def test_columns_of_different_lengths_and_with_indents() -> None:
    left, right = column("A", 30), column("B", 17)
    placed = [
        (x + (12 if text.split()[0] in ("A5", "A11", "B3") else 0), y, text)
        for x, y, text in across([left, right], [54, 320])
    ]
    text = load(drawn(placed)).text
    assert re.sub("\n+", "\n", text) == "\n".join(left + right)
    assert [part.split()[0] for part in text.split("\n\n")] == ["A0", "A5", "A11", "B0", "B3"]


def test_columns_set_apart_by_gaps_within_one_text() -> None:
    columns = [[f"{name}{n} always the same number of words" for n in range(10, 30)] for name in "ABC"]
    placed = across(columns, [40, 235, 430])  # 20 points apart: the 35 characters are 5 points wide
    content = b""
    for _, y, _ in placed[:15:3]:
        row = b") -2000 (".join(text.encode("latin-1") for _, at, text in placed if at == y)
        content += b"1 0 0 1 40 %.2f Tm [(%s)] TJ\n" % (y, row)
    for x, y, text in placed[15:]:
        content += b"1 0 0 1 %.2f %.2f Tm (%s) Tj\n" % (x, y, text.encode("latin-1"))
    assert load(fixed_pitch(b"BT /F1 10 Tf " + content + b"ET")).text == lines_of(*columns)


@pytest.mark.parametrize("first", [True, False])
def test_a_wide_heading_parts_what_is_above_from_what_is_below(first: bool) -> None:
    heading = "A heading that is so long that it reaches over both columns of the page, as it should"
    upper, lower = [column(name, 12) for name in "AB"], [column(name, 12) for name in "CD"]
    body = across(upper, [54, 320], top=700) + across(lower, [54, 320], top=520)
    placed = [(90, 545, heading), *body] if first else [*body, (90, 545, heading)]
    assert load(drawn(placed)).text == lines_of(*upper, [heading], *lower)


def test_header_and_footer_come_first_and_last() -> None:
    columns = [column(name, 20) for name in "ABC"]
    placed = [(420, 760, "Chapter 7"), *across(columns, [40, 220, 400]), (300, 420, "- 12 -"), (60, 420, "A Book")]
    assert load(drawn(placed)).text == lines_of(["Chapter 7"], *columns, ["A Book - 12 -"])


def test_words_of_a_line_drawn_in_parts_are_neither_glued_nor_split() -> None:
    left, right = column("A", 20), column("B", 20)
    content = b"BT /F1 10 Tf "
    for (x, y, text), (other_x, _, other) in zip(*[iter(across([left, right], [54, 320]))] * 2, strict=True):
        start, end = text.encode("latin-1").split(b" ", 1)
        half = len(end) // 2
        # The first word in another font, then the rest in two halves of a word, as kerning makes them.
        content += b"1 0 0 1 %d %.2f Tm /F1 10 Tf (%s) Tj /F1 10.01 Tf ( ) Tj [(%s) 20 (%s)] TJ\n" % (
            x,
            y,
            start,
            end[:half],
            end[half:],
        )
        content += b"1 0 0 1 %d %.2f Tm (%s) Tj\n" % (other_x, y, other.encode("latin-1"))
    assert load(page_pdf(content + b"ET")).text == lines_of(left, right)


class TestOtherPagesStayAsTheyWere:
    def check(self, data: bytes) -> None:
        assert re.sub("\n+", "\n", load(data).text) == plain(data)

    def test_a_single_column(self) -> None:
        long = [f"{line} {line} {line}" for line in column("A", 30)]
        self.check(drawn(across([long], [54])))

    def test_a_single_column_with_an_indented_list(self) -> None:
        long = [f"{line} {line} {line}" for line in column("A", 40)]
        self.check(
            drawn([(90 if 10 <= n < 22 else 54, y, text) for n, (_, y, text) in enumerate(across([long], [54]))])
        )

    def test_a_table(self) -> None:
        cells = [[f"{name} {n}" for n in range(30)] for name in ("a longer label of a row", "12.5", "7,000")]
        self.check(drawn(across(cells, [54, 250, 400])))

    def test_a_list_with_its_labels_beside_it(self) -> None:
        self.check(drawn(across([[f"{n}." for n in range(30)], column("A", 30)], [54, 80])))

    def test_columns_that_are_drawn_in_order(self) -> None:
        columns = [column(name, 30) for name in "AB"]
        placed = across(columns, [54, 320])
        self.check(drawn(placed[::2] + placed[1::2]))

    def test_turned_pages(self) -> None:
        lines = b"".join(
            b"0 1 -1 0 %.1f %d Tm (%s) Tj\n" % (100 + 792 - y, x, text.encode("latin-1"))
            for x, y, text in across([column(name, 30) for name in "AB"], [54, 320])
        )
        self.check(page_pdf(b"BT /F1 10 Tf " + lines + b"ET"))

    @pytest.mark.parametrize(("x", "size"), [(math.inf, 10.0), (math.nan, 10.0), (54.0, 1e-320), (54.0, 1e308)])
    def test_texts_beyond_all_bounds(self, monkeypatch: pytest.MonkeyPatch, x: float, size: float) -> None:
        page = PdfReader(io.BytesIO(page_pdf(b""))).pages[0]
        texts = [f"some words in line {n}\n" for n in range(20)]

        def extract(_page: object, pieces: list[Any]) -> str:
            level = [1.0, 0.0, 0.0, 1.0]
            for n, text in enumerate(texts):
                pieces.append((text, [*level, 0, 0], [*level, x + n % 2 * 300, 700.0 - n], None, size, 0))
            return "".join(texts)

        monkeypatch.setattr(pdf_columns, "extract", extract)
        assert page_text(page) == "".join(texts)

    @pytest.mark.parametrize("content", [b"", b"BT", b"Td Tm TJ ET Q", b"BT /F1 10 Tf [] TJ [-900] TJ 3 Td (a) Tj"])
    def test_odd_content(self, content: bytes) -> None:
        page = PdfReader(io.BytesIO(page_pdf(content))).pages[0]
        assert page_text(page) == page.extract_text()

    def test_pages_without_content_or_resources(self) -> None:
        objects = [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] >>",
        ]
        assert page_text(PdfReader(io.BytesIO(raw_pdf(objects))).pages[0]) == ""


def test_turned_text_beside_the_columns_comes_last() -> None:
    columns = [column(name, 30) for name in "AB"]
    stamp = b"BT /F1 12 Tf 0 1 -1 0 20 300 Tm (arXiv:2402.00001) Tj ET"
    assert load(drawn(across(columns, [54, 320]), stamp)).text == lines_of(*columns) + "\narXiv:2402.00001"


def test_a_page_is_left_as_it_was() -> None:
    page = PdfReader(io.BytesIO(drawn(across([column(name, 30) for name in "AB"], [54, 320])))).pages[0]
    contents, before = page.raw_get("/Contents"), page.extract_text()
    page_text(page)
    assert page.raw_get("/Contents") is contents
    assert page.extract_text() == before


@needs_pdfs
@pytest.mark.parametrize("path", sorted(PDFS.glob("*.pdf")), ids=lambda path: path.name)
def test_no_word_of_a_real_pdf_is_lost_or_doubled(path: Path) -> None:
    for page in PdfReader(path).pages[:50]:
        before = page.extract_text()
        after = re.sub(r"(?<=\d)[\^_](?=\d)", "", page_text(page))  # exponents and indices are marked
        assert Counter("".join(after.split())) == Counter("".join(before.split()))
        # Words of which pypdf makes one, as it glues the columns together.
        glued, parted = (Counter(text.split()) for text in (before, after))
        assert all(any(word in other for other in glued - parted) for word in parted - glued)


@needs_pdfs
@pytest.mark.parametrize(
    "sentence",
    [
        "You are a resident for tax purposes if you were a lawful permanent resident (immigrant) of the United States "
        "at any time during 2007.",
        "If you fail to take these two actions, you are still treated as a citizen or resident of the United States, "
        "and you must report your worldwide taxable income on Form 1040, 1040A, or 1040EZ, and figure your tax as "
        "shown in the instructions for those forms.",
        "A dual-status year is one in which you change status between nonresident and resident alien.",
    ],
)
def test_sentences_of_a_real_form_in_three_columns_are_whole(sentence: str) -> None:
    assert sentence in " ".join(load(FORM).text.split())
    assert sentence not in " ".join(" ".join(page.extract_text() for page in PdfReader(FORM).pages[:8]).split())
