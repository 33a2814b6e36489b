"""The vocabulary of a GGUF file, read without touching its tensors.

``gguf.GGUFReader`` makes an array view of every string and takes seconds; an estimate should take none.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_MAGIC = b"GGUF"
_TOKENS = "tokenizer.ggml.tokens"
_TOKEN_TYPES = "tokenizer.ggml.token_type"
_STRING, _ARRAY = 8, 9
#: Struct formats of GGUF's scalar types, by their numbers.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
#: The type of an ordinary token; others are control tokens, unused ones and the like.
_NORMAL = 1


def read_vocabulary(path: Path) -> dict[str, int]:
    """The ordinary tokens of a GGUF file's tokenizer and their ids, as the file spells them.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a GGUF file with a vocabulary.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            arrays = _arrays(data)
        except (struct.error, KeyError, UnicodeDecodeError) as error:
            raise ValueError(f"{str(path)!r} is a damaged GGUF file ({error!r}).") from error
    if _TOKENS not in arrays:
        raise ValueError(f"{str(path)!r} has no vocabulary.")
    tokens = arrays[_TOKENS]
    types = arrays.get(_TOKEN_TYPES, [_NORMAL] * len(tokens))
    return {str(token): index for index, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind == _NORMAL}


def _arrays(data: mmap.mmap) -> dict[str, list[str] | list[int]]:
    """The arrays of tokens and of token types; reading stops as soon as both are there."""
    magic, version, _, num_fields = struct.unpack_from("<4sIQQ", data, 0)
    if magic != _MAGIC or version < 2:
        raise ValueError("not a little-endian GGUF file of version 2 or above.")
    found: dict[str, list[str] | list[int]] = {}
    offset = struct.calcsize("<4sIQQ")
    for _ in range(num_fields):
        name, offset = _string(data, offset)
        (kind,) = struct.unpack_from("<I", data, offset)
        offset += 4
        if kind == _STRING:
            _, offset = _string(data, offset)
        elif kind == _ARRAY:
            values, offset = _array(data, offset)
            if name in (_TOKENS, _TOKEN_TYPES):
                found[name] = values
        else:
            offset += struct.calcsize("<" + _SCALARS[kind])
        if len(found) == 2:
            break
    return found


def _array(data: mmap.mmap, offset: int) -> tuple[list[str] | list[int], int]:
    kind, length = struct.unpack_from("<IQ", data, offset)
    offset += struct.calcsize("<IQ")
    if kind == _STRING:
        strings = []
        for _ in range(length):
            string, offset = _string(data, offset)
            strings.append(string)
        return strings, offset
    layout = f"<{length}{_SCALARS[kind]}"
    return list(struct.unpack_from(layout, data, offset)), offset + struct.calcsize(layout)


def _string(data: mmap.mmap, offset: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, offset)
    start = offset + 8
    return data[start : start + length].decode("utf-8"), start + length
