"""Limits for parsing untrusted files."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from focusdoc.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LoadLimits:
    """Limits above which loading a document fails with DocumentLimitError.

    Documents are never truncated. The defaults allow every book and report that a model could read within a day.

    Attributes:
        max_bytes: size of the file.
        max_pages: pages (or chapters, slides, sheets, sections).
        max_characters: characters of the text.
        max_unpacked: unpacked bytes of an e-book or office file.
        max_seconds: wall-clock time to parse a file.
        max_memory: address space of the parser's process in bytes (not on Windows and macOS, which cannot limit it).
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
