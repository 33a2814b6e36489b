"""The limits under which untrusted files are parsed."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from focusdoc.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LoadLimits:
    """How much a document may cost before loading it is refused with a DocumentLimitError.

    Nothing is ever cut down to a limit: a document is loaded whole or not at all. The defaults let through every
    book and report that a model could read within a day.

    Attributes:
        max_bytes: size of the file.
        max_pages: pages, or the chapters, slides, sheets or sections that take their place.
        max_characters: characters of the text.
        max_unpacked: bytes of an e-book's or office file's parts, unpacked.
        max_seconds: wall-clock time to parse a file.
        max_memory: bytes of address space of the process that parses it (where the system can limit it; on
            Windows and macOS ``max_seconds`` and the parser's own limits have to do).
    """

    max_bytes: int = 256 * 2**20
    max_pages: int = 20_000
    max_characters: int = 50_000_000
    max_unpacked: int = 2**30
    max_seconds: float = 300.0
    max_memory: int = 2 * 2**30

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            kinds = (int, float) if field.name == "max_seconds" else (int,)
            what = "number" if field.name == "max_seconds" else "whole number"
            if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < math.inf:
                raise ConfigError(f"{field.name} is {value!r}; it must be a {what} above 0.")
