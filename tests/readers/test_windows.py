"""The windows of a text are its paragraphs, cover all of it, and match a question by its words."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from focusdoc.readers import windows
from focusdoc.readers.windows import Windows

SENTENCES = " ".join(f"The house number {number} is painted in colour {number % 7}." for number in range(60))


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=3000))
def test_they_cover_every_text_in_order(text: str) -> None:
    spans = Windows(text).spans
    covered = {place for start, end in spans for place in range(start, end)}
    assert all(text[place].isspace() for place in range(len(text)) if place not in covered)
    assert spans == sorted(set(spans))


def test_each_overlaps_the_next_so_that_no_answer_is_cut() -> None:
    spans = Windows(SENTENCES).spans
    assert len(spans) > 5
    assert all(other[0] < one[1] for one, other in pairwise(spans))
    assert all(SENTENCES[start:end].endswith(".") for start, end in spans)
    assert all(0.9 * windows.WIDTH <= end - start <= 2 * windows.WIDTH for start, end in spans[:-1])


def paragraphs_of(*lengths: int) -> str:
    return "\n\n".join("x" * (length - 1) + "." for length in lengths)


@pytest.mark.parametrize(
    ("lengths", "windows_of"),
    [
        ((300, 300, 900), [1, 1, 1]),  # each stands for itself
        ((300, 50, 300), [2, 1]),  # a short one joins the one before
        ((50, 50, 50, 300), [4]),  # short ones join until they are long enough, and so does what follows
        ((900, 150, 150), [1, 2]),  # not where that would be too long
    ],
)
def test_paragraphs_are_windows(lengths: tuple[int, ...], windows_of: list[int]) -> None:
    text = paragraphs_of(*lengths)
    assert [text[start:end].count("\n\n") + 1 for start, end in Windows(text).spans] == windows_of


@pytest.mark.parametrize(
    "heading", ["Where To File", "# Usage", "4.2 Limits\nof the first kind", "Part\n\nChapter One"]
)
def test_a_heading_stands_with_what_follows(heading: str) -> None:
    text = f"{'a' * 299}.\n\n{heading}\n\nShort.\n\n{'b' * 199}.\n\n{'c' * 299}."
    first, second, third = (text[start:end] for start, end in Windows(text).spans)
    assert second.startswith(heading)
    assert second.endswith("b.")
    assert (first, third) == ("a" * 299 + ".", "c" * 299 + ".")


def test_a_heading_that_nothing_follows_stands_with_what_is_before() -> None:
    text = f"{'a' * 299}.\n\n{'b' * 299}.\n\nThe end"
    assert [text[start:end].count("\n\n") for start, end in Windows(text).spans] == [0, 1]


def test_lines_of_dialogue_are_no_headings() -> None:
    text = f"{'a' * 299}.\n\n“Well?”\n\n{'c' * 299}."
    assert [text[start:end].count("\n\n") for start, end in Windows(text).spans] == [1, 0]


@pytest.mark.parametrize("gap", ["\n\n", "\r\n\r\n", "\n \t\n", "\n\n\n\n"])
def test_blank_lines_of_every_kind_end_a_paragraph(gap: str) -> None:
    first, second = "a" * 300, "b" * 300
    assert [(first + gap + second)[start:end] for start, end in Windows(first + gap + second).spans] == [first, second]


def test_a_long_paragraph_is_cut_and_what_stands_beside_it_is_not_mixed_in() -> None:
    text = f"{'a' * 300}\n\n{SENTENCES}\n\n{'b' * 300}"
    first, *inside, last = (text[start:end] for start, end in Windows(text).spans)
    assert (first, last) == ("a" * 300, "b" * 300)
    assert len(inside) > 5
    assert all(each in SENTENCES for each in inside)


def test_the_window_with_the_rare_word_matches_most() -> None:
    text = SENTENCES + " A cuckoo lives there. " + SENTENCES
    matched = Windows(text)
    start, end = matched.spans[int(matched.matches("Where do cuckoos live?").argmax())]
    assert "cuckoo" in text[start:end]


@pytest.mark.parametrize("question", ["???", "the of", "xylophone", "何"])
def test_a_question_without_known_words_matches_nothing(question: str) -> None:
    assert not Windows(SENTENCES).matches(question).any()


@pytest.mark.parametrize("text", ["", "x", "++ -- ++", "\n\n", "word"])
def test_texts_of_hardly_any_words(text: str) -> None:
    found = Windows(text)
    assert len(found.matches("A word?")) == len(found.spans)
