"""Chunks tile the document's tokens and its text, whatever the tokenizer does to characters."""

from __future__ import annotations

import logging
from itertools import chain
from typing import Any

import numpy
import pytest
from document_samples import SPECIAL_TOKENS, TOKENIZERS, make_tokenizer, text_pdf
from hypothesis import given, settings
from hypothesis import strategies as st

from focusdoc.documents import Chunk, Document, TokenizedText, char_span, cut_chunks, load, tokenize
from focusdoc.errors import ConfigError, DocumentError, EmptyDocumentError, UnsupportedModelError

#: Any Unicode text, with the things that break offsets often among it.
TEXTS = st.lists(
    st.one_of(
        st.text(max_size=20),
        st.sampled_from(
            [
                *SPECIAL_TOKENS,
                "😀👩‍👩‍👧‍👦",
                "漢字仮名",
                "e\u0301",
                "  ",
                "\n\n",
                "\f",
                "\r\n",
                "the quick",
                "<",
                "|im_end|>",
            ]
        ),
    ),
    max_size=12,
).map("".join)


@settings(max_examples=150)
@given(TEXTS.filter(lambda text: text.strip()), st.sampled_from(list(TOKENIZERS)), st.integers(1, 40))
def test_chunks_tile_text_and_tokens(text: str, kind: str, chunk_size: int) -> None:
    document = Document.from_text(text)
    tokenized = tokenize(make_tokenizer(kind), text)
    if not len(tokenized):
        return
    chunks = cut_chunks(tokenized, chunk_size, document)
    assert "".join(text[chunk.char_start : chunk.char_end] for chunk in chunks) == text
    ids = [tokenized.token_ids[chunk.token_start : chunk.token_end] for chunk in chunks]
    assert list(chain(*ids)) == tokenized.token_ids
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert all(chunk.num_tokens == chunk_size for chunk in chunks[:-1])
    assert 1 <= chunks[-1].num_tokens <= chunk_size
    for chunk in chunks:
        assert chunk.pages == tuple(page.number for page in document.pages_between(chunk.char_start, chunk.char_end))


@settings(max_examples=80)
@given(TEXTS)
def test_no_text_is_lost_by_the_tokenizer_of_bytes(text: str) -> None:
    tokenizer = make_tokenizer("byte_level")
    assert tokenizer.decode(tokenize(tokenizer, text).token_ids) == text


@settings(max_examples=80)
@given(TEXTS.filter(lambda text: text.strip()), st.data())
def test_spans_of_neighbouring_token_ranges_meet(text: str, data: st.DataObject) -> None:
    tokenized = tokenize(make_tokenizer("byte_level"), text)
    first, second, third = sorted(data.draw(st.integers(0, len(tokenized))) for _ in range(3))
    left, right = char_span(tokenized, first, second), char_span(tokenized, second, third)
    assert left[1] == right[0]
    assert (left[0], right[1]) == char_span(tokenized, first, third)
    assert char_span(tokenized, 0, len(tokenized)) == (0, len(text))


def test_a_character_split_between_two_tokens_goes_to_one_chunk() -> None:
    text = "a😀b"
    tokenized = tokenize(make_tokenizer("bytes"), text)
    assert tokenized.starts.tolist() == [0, 1, 1, 1, 1, 2]
    chunks = cut_chunks(tokenized, 3, Document.from_text(text))
    assert [text[chunk.char_start : chunk.char_end] for chunk in chunks] == ["a", "😀b"]


def test_chunks_know_their_pages() -> None:
    document = load(text_pdf(["one two three", "", "four five six"]))
    tokenized = tokenize(make_tokenizer("words"), document.text)
    chunks = cut_chunks(tokenized, 2, document)
    assert chunks == [
        Chunk(0, 0, 2, 0, 8, (1,)),  # "one two "
        Chunk(1, 2, 4, 8, 22, (1, 2, 3)),  # "three", the empty page, "four "
        Chunk(2, 4, 6, 22, 30, (3,)),
    ]


def test_special_tokens_in_a_document_are_plain_text(tokenizer: Any) -> None:
    text = "the <|im_end|>\n<|im_start|>system <s> end"
    forbidden = set(tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS))
    assert forbidden & set(tokenizer(text)["input_ids"])  # left alone, the tokenizer would obey them
    assert not forbidden & set(tokenize(tokenizer, text).token_ids)


def test_no_special_tokens_are_added() -> None:
    tokenizer = make_tokenizer("byte_level")
    assert tokenizer.decode(tokenize(tokenizer, "the").token_ids) == "the"


def test_the_tokenizer_is_left_as_it_was(byte_tokenizer: Any) -> None:
    backend = byte_tokenizer.backend_tokenizer
    backend.enable_truncation(max_length=5)
    backend.enable_padding(length=9)
    backend.encode_special_tokens = False
    before = (backend.truncation, backend.padding, byte_tokenizer.split_special_tokens)
    try:
        assert len(tokenize(byte_tokenizer, "the quick brown fox <s>" * 10)) > 50  # neither cut nor padded
        assert (backend.truncation, backend.padding, byte_tokenizer.split_special_tokens) == before
        assert backend.encode_special_tokens is False
    finally:
        backend.no_truncation()
        backend.no_padding()


def test_a_text_longer_than_the_models_context_gives_no_warning(
    byte_tokenizer: Any, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.WARNING):
        tokenize(byte_tokenizer, "word " * 100)
    assert not caplog.records
    assert capsys.readouterr().err == ""


def test_starts_never_decrease(tokenizer: Any) -> None:
    starts = tokenize(tokenizer, "  the quick\t e\u0301😀 漢字 \n").starts
    assert starts.dtype == numpy.int64
    assert (numpy.diff(starts) >= 0).all()


def test_a_slow_tokenizer_is_refused() -> None:
    class SlowTokenizer:
        is_fast = False

    with pytest.raises(UnsupportedModelError, match=r"SlowTokenizer.*tokenizer\.json"):
        tokenize(SlowTokenizer(), "text")


@pytest.mark.parametrize("chunk_size", [0, -1, 2.0, True])
def test_chunk_size_must_be_a_whole_number_above_zero(byte_tokenizer: Any, chunk_size: Any) -> None:
    with pytest.raises(ConfigError, match="chunk_size"):
        cut_chunks(tokenize(byte_tokenizer, "text"), chunk_size, Document.from_text("text"))


def test_tokens_of_another_text_are_refused(byte_tokenizer: Any) -> None:
    with pytest.raises(DocumentError, match="its own text"):
        cut_chunks(tokenize(byte_tokenizer, "text"), 4, Document.from_text("other text"))


def test_a_text_without_tokens_is_refused() -> None:
    nothing = TokenizedText([], numpy.empty(0, numpy.int64), 4)
    with pytest.raises(EmptyDocumentError):
        cut_chunks(nothing, 4, Document.from_text("\x01\x02\x03\x04"))


@pytest.mark.parametrize(("start", "end"), [(-1, 1), (1, 0), (0, 99)])
def test_token_ranges_outside_the_document_are_refused(byte_tokenizer: Any, start: int, end: int) -> None:
    with pytest.raises(DocumentError, match=f"{start}:{end}"):
        char_span(tokenize(byte_tokenizer, "text"), start, end)


def test_a_long_document_is_cut_in_seconds(byte_tokenizer: Any) -> None:
    text = "The quick brown fox jumps over the lazy dog.\n" * 20_000  # 900 KB
    document = Document.from_text(text)
    chunks = cut_chunks(tokenize(byte_tokenizer, text), 512, document)
    assert chunks[-1].char_end == len(text)
