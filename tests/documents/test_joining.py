"""Words are read as they were typed: not as line ends broke them, and without ligatures."""

from __future__ import annotations

import pytest
from document_samples import raw_pdf
from hypothesis import given
from hypothesis import strategies as st

from focusdoc.documents import load
from focusdoc.documents.joining import as_typed, join_words


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        ("to Green-\nland and on", "to Greenland\nand on"),
        ("Greenland. Its land, green. Green-\nland.", "Greenland. Its land, green. Greenland.\n"),
        ("soft\N{SOFT HYPHEN}\nware", "software\n"),
        ("Über-\nlegung, (Funk-\ntionen).", "Überlegung,\n(Funktionen).\n"),
        ("pre\N{HYPHEN}\ndate", "predate\n"),
    ],
    ids=["alone", "known", "soft", "punctuation", "another hyphen"],
)
def test_words_that_a_line_end_broke_are_joined(text: str, joined: str) -> None:
    assert join_words([text]) == [joined]


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        ("well-known; a well-\nknown man", "well-known; a well-known\nman"),
        ("a well-made, well-\nread man", "a well-made, well-read\nman"),
        ("Pages 10-\n20 of", "Pages 10-20\nof"),
        ("ISBN 978-3-\n16-148410-0.", "ISBN 978-3-16-148410-0.\n"),
        ("Anglo-\nAmerican", "Anglo-American\n"),
        ("covid-\n19", "covid-19\n"),
    ],
    ids=["known", "beginning", "range", "ISBN", "capital", "number"],
)
def test_hyphens_that_belong_to_a_word_stay(text: str, joined: str) -> None:
    assert join_words([text]) == [joined]


@pytest.mark.parametrize(
    "text",
    ["tea, table, tea-\ntable", "Haupt-\nund und Neben", "a dash -\nthen", "one --\ntwo", "a-\n\nb", "- one\n- two"],
)
def test_where_nothing_is_known_the_text_stays_as_it_is(text: str) -> None:
    assert join_words([text]) == [text]


def test_words_of_other_pages_are_known_too() -> None:
    assert join_words(["a rain-\nbow, rain, bow", "the rainbow"])[0] == "a rainbow,\nrain, bow"


@given(st.text(alphabet="ab-\n \N{SOFT HYPHEN}é1A", max_size=60))
def test_nothing_but_hyphens_and_white_space_is_changed(text: str) -> None:
    (joined,) = join_words([text])
    bare = str.maketrans("", "", "-\n \N{SOFT HYPHEN}")
    assert joined.translate(bare) == text.translate(bare)


def test_ligatures_and_soft_hyphens_are_as_typed() -> None:
    assert as_typed("ﬀ ﬁ ﬂ ﬃ ﬄ ﬅ ﬆ Donau\N{SOFT HYPHEN}dampf") == "ff fi fl ffi ffl st st Donaudampf"


def test_a_pdf_is_read_as_it_was_typed_and_its_pages_still_tile_it() -> None:
    lines = [b"(The \001nal o\002ce is in Green-)", b"(land, well-)", b"(known.)"]
    contents = [
        b"BT /F1 12 Tf 72 700 Td " + b" Tj 0 -14 Td ".join(lines) + b" Tj ET",
        b"BT /F1 12 Tf 72 700 Td (A well-known place.) Tj ET",
    ]
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R "
    page += b"/Resources << /Font << /F1 7 0 R >> >> >>"
    data = raw_pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R 4 0 R] /Count 2 >>",
            page % 5,
            page % 6,
            *(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content) for content in contents),
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding << /Differences [1 /fi /ffi] >> >>",
        ]
    )
    document = load(data)
    assert document.text == "The final office is in Greenland,\nwell-known.\n\nA well-known place."
    assert document.page_at(document.text.index("place")).number == 2


def test_soft_hyphens_of_web_pages_are_no_text() -> None:
    assert load("<html><p>Donau&shy;dampf ﬁnal".encode()).text == "Donaudampf final"


def test_a_long_word_after_a_hyphen_takes_no_time() -> None:
    text = "a-\n" + "b" * 200_000 + "\tc"
    assert join_words([text]) == [text]
