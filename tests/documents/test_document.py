"""A document's pages tile its text, and answer which page an offset is on."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from focusdoc.documents import Document, Page
from focusdoc.errors import DocumentError, EmptyDocumentError

TWO_PAGES = Document("one\ntwo", (Page(1, "i", 0, 4), Page(2, "ii", 4, 7)))


@pytest.mark.parametrize(
    "pages",
    [
        (),
        (Page(1, None, 0, 6),),
        (Page(1, None, 0, 8),),
        (Page(1, None, 1, 7),),
        (Page(2, None, 0, 7),),
        (Page(1, None, 0, 3), Page(2, None, 4, 7)),
        (Page(1, None, 0, 5), Page(2, None, 4, 7)),
        (Page(1, None, 0, 4), Page(3, None, 4, 7)),
        (Page(1, None, 0, 7), Page(2, None, 7, 5)),
    ],
    ids=["none", "short", "long", "late", "number", "gap", "overlap", "skipped number", "reversed"],
)
def test_pages_that_do_not_tile_the_text_are_refused(pages: tuple[Page, ...]) -> None:
    with pytest.raises(DocumentError):
        Document("one\ntwo", pages)


def test_page_at_knows_every_offset() -> None:
    assert [TWO_PAGES.page_at(offset).number for offset in range(8)] == [1, 1, 1, 1, 2, 2, 2, 2]


@pytest.mark.parametrize("offset", [-1, 8])
def test_page_at_refuses_offsets_outside_the_text(offset: int) -> None:
    with pytest.raises(DocumentError, match=str(offset)):
        TWO_PAGES.page_at(offset)


@pytest.mark.parametrize(
    ("start", "end", "numbers"), [(0, 4, [1]), (3, 5, [1, 2]), (4, 7, [2]), (0, 7, [1, 2]), (4, 4, [2]), (7, 7, [2])]
)
def test_pages_between_are_those_that_share_a_character(start: int, end: int, numbers: list[int]) -> None:
    assert [page.number for page in TWO_PAGES.pages_between(start, end)] == numbers


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (0, 8), (3, 2)])
def test_pages_between_refuses_spans_outside_the_text(start: int, end: int) -> None:
    with pytest.raises(DocumentError):
        TWO_PAGES.pages_between(start, end)


@given(st.text(alphabet="ab \f", min_size=1).filter(str.strip), st.data())
def test_form_feeds_end_pages_and_pages_agree_with_a_slow_count(text: str, data: st.DataObject) -> None:
    document = Document.from_text(text)
    assert "".join(text[page.start : page.end] for page in document.pages) == text
    assert all("\f" not in text[page.start : page.end - 1] for page in document.pages)
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    assert document.page_at(start).number == text[:start].count("\f") + 1
    slow = [page for page in document.pages if set(range(page.start, page.end)) & set(range(start, end))]
    assert list(document.pages_between(start, end)) == slow


def test_a_plain_text_is_one_page_that_means_nothing() -> None:
    document = Document.from_text("a text")
    assert document.pages == (Page(1, None, 0, 6),)
    assert not document.has_pages
    assert document.name == "text"
    assert Document.from_text("one\ftwo").has_pages


@pytest.mark.parametrize("text", ["", " \n\t", "\f\f"])
def test_a_text_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(EmptyDocumentError):
        Document.from_text(text)


def test_half_a_surrogate_pair_is_refused_by_its_place() -> None:
    with pytest.raises(DocumentError, match="character 3"):
        Document.from_text("abc\ud800")


def test_a_document_can_be_copied_pickled_and_printed() -> None:
    document = Document.from_text("word " * 1000, {"name": "words.txt"})
    document.page_at(3)
    assert pickle.loads(pickle.dumps(document)) == copy.deepcopy(document) == document
    assert repr(document) == "Document('words.txt', 5,000 characters, 1 pages)"
    assert hash(document) == hash(copy.deepcopy(document))
