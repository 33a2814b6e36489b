"""Counting or estimating the tokens of a text without loading a model, offline."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from focusdoc.modeling.catalogue import DEFAULT_MODEL, known_model
from focusdoc.modeling.installed import converted_folder

#: Models with this in their name are related to the default model, and mostly share its vocabulary.
_DEFAULT_FAMILY = "smollm2"
#: Rule of thumb for English and code: characters per token.
_ASCII_PER_TOKEN = 4.2
#: For other scripts: UTF-8 bytes per token (a Chinese character has three).
_BYTES_PER_TOKEN = 3.0
#: Characters tokenized at a time, to bound the memory.
_PIECE = 100_000


@dataclass(frozen=True, slots=True)
class TokenEstimate:
    """A number of tokens.

    Attributes:
        num_tokens: the estimate.
        method: how it was made and how accurate it is, in words.
    """

    num_tokens: int
    method: str


def estimate_tokens(text: str, model: str | None = None) -> TokenEstimate:
    """Count or estimate the tokens of `text` without loading a model and without the network.

    Args:
        text: of any length; special tokens in it count as plain text.
        model: name or folder of the model; ``None`` for the default one.
    """
    plain = text.encode("utf-8", "replace").decode("utf-8")
    file, method = _tokenizer_file(model), "counted with the model's own tokenizer"
    if file is None and _DEFAULT_FAMILY in str(model).lower():
        file, method = _tokenizer_file(None), "estimated with the default model's tokenizer"
    if file is not None:
        with contextlib.suppress(Exception):  # a damaged file is reported when the model is loaded
            tokenizer = _tokenizer(file, file.stat().st_mtime_ns)
            pieces = (tokenizer.encode_batch_fast([piece], add_special_tokens=False) for piece in _pieces(plain))
            return TokenEstimate(sum(len(encoded.ids) for (encoded,) in pieces), method)
    num_ascii = len(plain.encode("ascii", "ignore"))
    other_bytes = len(plain.encode("utf-8")) - num_ascii
    guess = round(num_ascii / _ASCII_PER_TOKEN + other_bytes / _BYTES_PER_TOKEN)
    method = (
        f"rule of thumb ({_ASCII_PER_TOKEN} ASCII characters, or {_BYTES_PER_TOKEN:g} bytes of other scripts, a "
        "token); expect 30% more or less"
    )
    return TokenEstimate(max(guess, 1 if text else 0), method)


def _tokenizer_file(model: str | None) -> Path | None:
    """The model's own tokenizer on this machine: in its folder, or in the cache for a converted catalogue model."""
    known = known_model(model or DEFAULT_MODEL)
    folder = Path(str(model)) if known is None else converted_folder(known)
    file = folder / "tokenizer.json" if folder else None
    return file if file and file.is_file() else None


@lru_cache(maxsize=1)
def _tokenizer(file: Path, _changed: int) -> Any:
    """The tokenizer in a file, without truncation, treating special tokens as plain text; `_changed` keys the cache."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces that end before a space if possible, so that no word is split."""
    start = 0
    while start < len(text):
        end = start + _PIECE
        if end < len(text):
            space = text.rfind(" ", start + 1, end)
            end = space if space > 0 else end
        yield text[start:end]
        start = end
