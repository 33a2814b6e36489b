"""Cutting a document into chunks on a fixed grid of the model's own tokens (FocusLLM, section 3.1).

The grid starts at the document's first token, so chunks do not depend on any question. Every token knows where its
text starts; a chunk's text runs from the start of its first token to the start of the next chunk's, so the chunks
tile the text whatever a tokenizer leaves out of its offsets (white space, bytes of one character, unknown ones).
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
        token_ids: one id a token.
        starts: int64 [num_tokens], the character at which each token's text starts; never decreasing. Tokens
            that share one character (its UTF-8 bytes) share its offset.
        num_characters: length of the text.
    """

    token_ids: list[int]
    starts: NDArray[numpy.int64]
    num_characters: int

    def __len__(self) -> int:
        """How many tokens there are."""
        return len(self.token_ids)

    def with_bos(self, token: int) -> TokenizedText:
        """The same with the BOS token in front, which covers no character."""
        import numpy

        return TokenizedText([token, *self.token_ids], numpy.insert(self.starts, 0, 0), self.num_characters)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A slice of a document: tokens ``[token_start, token_end)``, characters ``[char_start, char_end)``.

    Attributes:
        index: 0 for the first chunk.
        token_start: its first token in the document.
        token_end: behind its last token.
        char_start: its first character in ``Document.text``.
        char_end: behind its last character.
        pages: numbers of the pages that it shares characters with.
    """

    index: int
    token_start: int
    token_end: int
    char_start: int
    char_end: int
    pages: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """How many tokens the chunk has; only the last chunk has fewer than the chunk size."""
        return self.token_end - self.token_start


def tokenize(tokenizer: Any, text: str) -> TokenizedText:
    """The tokens of `text` alone: no BOS, no truncation, and special tokens written in it are plain text.

    The tokenizer is left as it was. It must not be used by another thread meanwhile.

    Args:
        tokenizer: a fast tokenizer of transformers (one that knows its tokens' offsets).
        text: of any length; 5 MB take about 5 seconds and 700 MB of memory.

    Raises:
        UnsupportedModelError: the tokenizer has no offsets.
    """
    import numpy

    if not getattr(tokenizer, "is_fast", False):
        raise UnsupportedModelError(
            f"{type(tokenizer).__name__} does not tell which characters a token covers; use the model's fast "
            "tokenizer (a tokenizer.json in its folder, loaded by AutoTokenizer with use_fast=True)."
        )
    with _state_kept(tokenizer.backend_tokenizer):
        encoded = tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=True,
            truncation=False,
            padding=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # a document is meant to be longer than the model's context
        )
    token_ids: list[int] = encoded["input_ids"]
    offsets = encoded["offset_mapping"]
    starts = numpy.fromiter((start for start, _ in offsets), dtype=numpy.int64, count=len(token_ids))
    return TokenizedText(token_ids, numpy.maximum.accumulate(starts), len(text))


def cut_chunks(tokenized: TokenizedText, chunk_size: int, document: Document) -> list[Chunk]:
    """The chunks of a document: `chunk_size` tokens each, the last one what is left.

    Args:
        tokenized: the tokens of ``document.text``.
        chunk_size: in tokens, at least 1.
        document: gives the page numbers.

    Raises:
        ConfigError: `chunk_size` is below 1.
        DocumentError: the tokens are of another text.
        EmptyDocumentError: the tokenizer made no token of the text.
    """
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
        raise ConfigError(f"chunk_size is {chunk_size!r}; it must be a whole number of at least 1.")
    if tokenized.num_characters != len(document.text):
        raise DocumentError(
            f"The tokens are of a text of {tokenized.num_characters} characters, but {document.name!r} has "
            f"{len(document.text)}; tokenize its own text."
        )
    if not tokenized.token_ids:
        raise EmptyDocumentError(f"{document.name!r} holds nothing that the model has tokens for; give another text.")
    chunks = []
    for index, token_start in enumerate(range(0, len(tokenized), chunk_size)):
        token_end = min(token_start + chunk_size, len(tokenized))
        start, end = char_span(tokenized, token_start, token_end)
        pages = tuple(page.number for page in document.pages_between(start, end))
        chunks.append(Chunk(index, token_start, token_end, start, end, pages))
    return chunks


def char_span(tokenized: TokenizedText, token_start: int, token_end: int) -> tuple[int, int]:
    """The characters of tokens ``[token_start, token_end)``, such that neighbouring ranges tile the text.

    The first token's text begins at 0 and the last one's ends with the text; between, a token's text ends where the
    next one's starts. So a span can be empty: when its tokens are the first bytes of a character.

    Raises:
        DocumentError: the range is reversed or outside the tokens.
    """
    count = len(tokenized)
    if not 0 <= token_start <= token_end <= count:
        raise DocumentError(f"Tokens {token_start}:{token_end} are reversed or outside the document's {count} tokens.")
    return _boundary(tokenized, token_start), _boundary(tokenized, token_end)


def _boundary(tokenized: TokenizedText, token: int) -> int:
    """The character at which `token` starts, as a cut between two spans."""
    if token == 0:
        return 0
    return int(tokenized.starts[token]) if token < len(tokenized) else tokenized.num_characters


@contextmanager
def _state_kept(backend: Any) -> Iterator[None]:
    """Undo what encoding changes in the Rust tokenizer: transformers leaves its settings at the last call's."""
    special, truncation, padding = backend.encode_special_tokens, backend.truncation, backend.padding
    try:
        yield
    finally:
        backend.encode_special_tokens = special
        if truncation is not None:
            backend.enable_truncation(**truncation)
        if padding is not None:
            backend.enable_padding(**padding)
