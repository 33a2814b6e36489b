"""Splitting a document into chunks on a fixed grid of tokens (FocusLLM, section 3.1).

The grid starts at the document's first token, so chunks do not depend on the question. A chunk's text runs from the
start of its first token to the start of the next chunk's, so the chunks tile the text even where the tokenizer's
offsets have gaps (white space, bytes of one character, unknown characters).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from focusdoc.documents.document import Document
from focusdoc.errors import ConfigError, DocumentError, EmptyDocumentError, UnsupportedModelError

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False, slots=True)
class TokenizedText:
    """The tokens of a text.

    Attributes:
        token_ids: the ids.
        starts: int64 [num_tokens], the character at which each token starts; non-decreasing. Tokens that are bytes of
            one character share its offset.
        num_characters: length of the text.
    """

    token_ids: list[int]
    starts: NDArray[numpy.int64]
    num_characters: int

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self.token_ids)

    def with_bos(self, token: int) -> TokenizedText:
        """The same with a BOS token in front, which covers no characters."""
        import numpy

        return TokenizedText([token, *self.token_ids], numpy.insert(self.starts, 0, 0), self.num_characters)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A slice of a document: tokens ``[token_start, token_end)``, characters ``[char_start, char_end)``.

    Attributes:
        index: from 0.
        pages: the numbers of the pages that it overlaps.
    """

    index: int
    token_start: int
    token_end: int
    char_start: int
    char_end: int
    pages: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """The number of tokens, which is the chunk size except for the last chunk."""
        return self.token_end - self.token_start


def tokenize(tokenizer: Any, text: str) -> TokenizedText:
    """Tokenize `text` without BOS and without truncation; special tokens in it are plain text.

    The tokenizer's state is restored. It must not be used by another thread at the same time.

    Args:
        tokenizer: a fast tokenizer of transformers, which has offsets.
        text: of any length; 5 MB take about 5 seconds and 700 MB of memory.

    Raises:
        UnsupportedModelError: the tokenizer has no offsets.
    """
    import numpy

    if not getattr(tokenizer, "is_fast", False):
        raise UnsupportedModelError(
            f"{type(tokenizer).__name__} does not return the characters of a token; use the model's fast "
            "tokenizer (a tokenizer.json in its folder, loaded by AutoTokenizer with use_fast=True)."
        )
    with _restored(tokenizer.backend_tokenizer):
        encoded = tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=True,
            truncation=False,
            padding=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # no warning about the model's context length
        )
    token_ids: list[int] = encoded["input_ids"]
    offsets = encoded["offset_mapping"]
    starts = numpy.fromiter((start for start, _ in offsets), dtype=numpy.int64, count=len(token_ids))
    return TokenizedText(token_ids, numpy.maximum.accumulate(starts), len(text))


def cut_chunks(tokenized: TokenizedText, chunk_size: int, document: Document) -> list[Chunk]:
    """The chunks of a document with these tokens, `chunk_size` tokens each; the last one may be shorter.

    Raises:
        ConfigError: `chunk_size` is below 1.
        DocumentError: the tokens are of another text.
        EmptyDocumentError: there are no tokens.
    """
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
        raise ConfigError(f"chunk_size is {chunk_size!r}; it must be a whole number of at least 1.")
    if tokenized.num_characters != len(document.text):
        raise DocumentError(
            f"The tokens are of a text of {tokenized.num_characters} characters, but {document.name!r} has "
            f"{len(document.text)}; tokenize its own text."
        )
    if not tokenized.token_ids:
        raise EmptyDocumentError(f"{document.name!r} has nothing that the model has tokens for; give another text.")
    chunks = []
    for index, token_start in enumerate(range(0, len(tokenized), chunk_size)):
        token_end = min(token_start + chunk_size, len(tokenized))
        start, end = char_span(tokenized, token_start, token_end)
        pages = tuple(page.number for page in document.pages_between(start, end))
        chunks.append(Chunk(index, token_start, token_end, start, end, pages))
    return chunks


def char_span(tokenized: TokenizedText, token_start: int, token_end: int) -> tuple[int, int]:
    """The characters of tokens ``[token_start, token_end)``; spans of adjacent ranges tile the text.

    The first token starts at 0, a token ends where the next one starts, and the last one ends with the text. A span is
    empty if its tokens are the first bytes of a character.

    Raises:
        DocumentError: the range is reversed or outside the tokens.
    """
    count = len(tokenized)
    if not 0 <= token_start <= token_end <= count:
        raise DocumentError(f"Tokens {token_start}:{token_end} are reversed or outside the document's {count} tokens.")
    return _boundary(tokenized, token_start), _boundary(tokenized, token_end)


def _boundary(tokenized: TokenizedText, token: int) -> int:
    """The boundary between the spans before and after the start of `token`."""
    if token == 0:
        return 0
    return int(tokenized.starts[token]) if token < len(tokenized) else tokenized.num_characters


@contextmanager
def _restored(backend: Any) -> Iterator[None]:
    """Restore the settings of the Rust tokenizer, which transformers changes at every call."""
    special, truncation, padding = backend.encode_special_tokens, backend.truncation, backend.padding
    try:
        yield
    finally:
        backend.encode_special_tokens = special
        if truncation is not None:
            backend.enable_truncation(**truncation)
        if padding is not None:
            backend.enable_padding(**padding)
