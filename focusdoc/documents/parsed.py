"""What the child process makes of a file, and how it says that it cannot be loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict


class Request(TypedDict):
    """What the child process is asked: the kind of file, its name for messages, and the fields of `LoadLimits`."""

    kind: str
    name: str
    password: str | None
    max_pages: int
    max_characters: int
    max_unpacked: int
    max_seconds: float
    max_memory: int


@dataclass(kw_only=True)
class Parsed:
    """The texts of a file.

    Attributes:
        format: "pdf", "docx", ...
        pages: the text of every page, or of what takes the place of pages.
        unit: what that is, in the singular: "page", "chapter", "slide", "sheet" or "section".
        labels: of every page, its printed number, or the title of the chapter; empty where there are none.
        left_out: sentences about what a viewer shows and the text lacks.
        warnings: of the parser.
    """

    format: str
    pages: list[str]
    unit: str = "page"
    labels: list[str | None] = field(default_factory=list)
    title: str | None = None
    author: str | None = None
    left_out: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class Refused(Exception):
    """The file cannot be loaded; `kind` picks the parent's error type."""

    def __init__(self, kind: str, message: str = "") -> None:
        super().__init__(message)
        self.kind = kind
