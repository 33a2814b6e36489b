"""The messages between parent and child process: request, parsed file, refusal."""

from __future__ import annotations

from dataclasses import dataclass, field

from focusdoc.documents.limits import LoadLimits


@dataclass(frozen=True)
class Request:
    """A request to the child process: the kind of file, its name for messages, its password, and the limits."""

    kind: str
    name: str
    password: str | None
    limits: LoadLimits


@dataclass(kw_only=True)
class Parsed:
    """The text of a parsed file.

    Attributes:
        format: "pdf", "docx", ...
        pages: the texts of the pages (or chapters, slides, sheets, sections).
        unit: the name of a page: "page", "chapter", "slide", "sheet" or "section".
        labels: the printed number or the title of each page; empty if there are none.
        left_out: sentences about content that a viewer shows but the text lacks.
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
    """The file cannot be loaded; `kind` selects the error that the parent raises."""

    def __init__(self, kind: str, message: str = "") -> None:
        super().__init__(message)
        self.kind = kind
