"""The document that is read: a real text, as long as a measurement wants it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from focusdoc.documents import Document, tokenize
from focusdoc.evaluation.files import long_texts


def source_text(path: str | None) -> str:
    """The text at `path` (the first one of a folder), or the Python reference."""
    return next(iter(long_texts(Path(path) if path is not None else None))).text


def passage(tokenizer: Any, text: str, length: int) -> tuple[Document, list[int]]:
    """The first `length` tokens of `text`, as a document and as token ids.

    A shorter text is repeated. Its length is hardly ever a multiple of the chunk size, so a repeated sentence stands
    at another place of another chunk, and no two chunks are alike.
    """
    tokenized = tokenize(tokenizer, text)
    if len(tokenized) < length:
        text = "\n\n".join([text] * (length // len(tokenized) + 2))
        tokenized = tokenize(tokenizer, text)
    end = int(tokenized.starts[length]) if length < len(tokenized) else len(text)
    return Document.from_text(text[:end], {"name": f"{length:,} tokens"}), tokenized.token_ids[:length]
