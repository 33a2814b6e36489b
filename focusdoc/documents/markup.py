"""Converting markup to text: HTML, and the XML inside e-books and office files.

Paragraphs are separated by a blank line, a table row is a line with bars between cells, a list item starts with its
number or a dash. Scripts and styles are skipped. Nothing outside the file is ever fetched, and no entities but HTML's
characters are expanded. Runs in the child process.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from lxml import etree

_SPACES = re.compile(r"[ \t\r\n\f\xa0]+")
#: The text of a link to a footnote.
_MARK = re.compile(r"[\[(]?(?:\d{1,4}|[*†‡§]{1,4}|[a-z])[\])]?")
_MAX_LABEL = 200
#: Most repetitions of a cell or row (some are repeated to the end of a sheet).
_MAX_REPEATED = 1000
#: Separates cells.
BAR = " | "

Heading = tuple[int, int, str]  # start in the text, level, words


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How to convert the elements of one kind of markup, by their local names.

    Attributes:
        paragraphs, lines: are on their own lines, with or without a blank line around them.
        rows, cells: of tables.
        notes: within a paragraph; they are put in brackets.
        skipped: without their contents.
        breaks: elements that are replaced by a text.
        verbatim: their white space is kept.
        texts: the only elements with text, whose white space is kept; empty if all elements may have text.
        level: of a heading, 0 for other elements.
        marker: the prefix of a list item, "" for other elements.
    """

    paragraphs: frozenset[str] = frozenset()
    lines: frozenset[str] = frozenset()
    rows: frozenset[str] = frozenset()
    cells: frozenset[str] = frozenset()
    notes: frozenset[str] = frozenset()
    skipped: frozenset[str] = frozenset()
    breaks: dict[str, str] = field(default_factory=dict)
    verbatim: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()
    level: Callable[[Any], int] = lambda element: 0
    marker: Callable[[Any], str] = lambda element: ""

    def breaks_around(self, name: str) -> int:
        """Line breaks before and after an element: 2, 1 or 0."""
        return 2 if name in self.paragraphs else int(name in self.lines)


def names(words: str) -> frozenset[str]:
    """Element names from a string, separated by spaces."""
    return frozenset(words.split())


def parse_xml(data: bytes) -> Any:
    """The tree of an XML file, without expanding entities.

    Raises:
        lxml.etree.XMLSyntaxError: it is damaged, or exceeds libxml2's limits of size or nesting.
    """
    return etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False))


def local(element: Any) -> str:
    """The name of an element without its namespace; "" for comments and processing instructions."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def attribute(element: Any, name: str) -> str:
    """The attribute with this local name in any namespace; "" if there is none."""
    return next((str(value) for key, value in element.items() if key.rpartition("}")[2] == name), "")


def count(value: str) -> int:
    """Parse a whole number; 1 if it is not one."""
    return int(value) if value.isdecimal() else 1


def to_text(root: Any, rules: Rules) -> tuple[str, list[Heading]]:
    """The text of a tree, and its headings; nothing of None, an empty page."""
    if root is None:
        return "", []
    writer = _Writer(rules)
    walker = etree.iterwalk(root, events=("start", "end", "comment", "pi"))
    for event, element in walker:
        if event == "start" and isinstance(element.tag, str):
            if not writer.start(element):
                walker.skip_subtree()
        elif event != "start":
            if isinstance(element.tag, str):
                writer.end(element)
            if element is not root:
                writer.text(element.tail, element.getparent())
    return writer.buffers[0].finish()


def sections(text: str, headings: list[Heading]) -> tuple[list[str], list[str | None]]:
    """Split a text at its headings of the highest level that occurs more than once; returns the parts and labels."""
    levels = Counter(level for _, level, _ in headings)
    top = min((level for level, count in levels.items() if count > 1), default=0)
    starts: dict[int, str | None] = {0: None} | {start: words for start, level, words in headings if level <= top}
    parts = [text[start:end] for start, end in pairwise([*starts, len(text)])]
    kept = [(part, label) for part, label in zip(parts, starts.values(), strict=True) if part.strip() or label]
    return [part for part, _ in kept] or [text], [label for _, label in kept]


def _reference(element: Any) -> str:
    """A footnote's mark in brackets, or ``^`` and an exponent, which would otherwise join the number before it."""
    name = local(element)
    if name not in ("a", "sup"):
        return ""
    words = "".join(element.itertext()).strip()
    to_note = "#" in attribute(element if name == "a" else next(element.iter("a"), element), "href")
    if to_note and _MARK.fullmatch(words):
        return f"[{words.strip('[]()')}]"
    return f"^{words}" if name == "sup" and words[:1].isdigit() else ""


def _hidden(element: Any) -> bool:
    return element.get("hidden") is not None or "display:none" in element.get("style", "").replace(" ", "")


class _Writer:
    """Converts the elements of a tree in document order."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        #: A stack: the text, then the open notes and cells.
        self.buffers = [_Buffer()]
        # A stack of the open rows with the texts of their cells; None for layout tables, which contain other tables.
        self._rows: list[list[str] | None] = []
        #: The list item that began last.
        self._item: Any = None

    def start(self, element: Any) -> bool:
        """Start an element; returns False if its contents are to be skipped."""
        rules, name, buffer = self._rules, local(element), self.buffers[-1]
        if name in rules.skipped or _hidden(element):
            return False
        if mark := _reference(element):
            buffer.add(mark)
            return False
        if name in rules.breaks:
            times = count(attribute(element, "c"))  # OpenDocument counts spaces
            buffer.add(rules.breaks[name] * min(times, _MAX_REPEATED), verbatim=True)
        elif name in rules.rows:
            buffer.end_block(1)
            inner = any(local(other) in rules.rows for other in element.iterdescendants())
            self._rows.append(None if inner else [])
        elif self._is_cell(name) or name in rules.notes:
            self.buffers.append(_Buffer())
        elif breaks := rules.breaks_around(name):
            buffer.end_block(breaks)
            buffer.level = rules.level(element)
            if marker := rules.marker(element):
                buffer.marker, self._item = marker, element
        self.text(element.text, element)
        return True

    def end(self, element: Any) -> None:
        """End an element, also a skipped one."""
        rules, name = self._rules, local(element)
        if name in rules.skipped or _hidden(element):
            return
        if name in rules.rows:
            self._end_row(element)
        elif self._is_cell(name):
            times = count(attribute(element, "number-columns-repeated"))
            cell = self.buffers.pop().finish()[0]
            self._rows[-1] += [cell] * min(times, _MAX_REPEATED)  # type: ignore[operator]  # a cell has a row
        elif name in rules.notes:
            note = " ".join(self.buffers.pop().finish()[0].split())
            self.buffers[-1].add(f" [{note}]")
        elif breaks := rules.breaks_around(name):
            self.buffers[-1].end_block(breaks)
            self.buffers[-1].level = 0
            if element is self._item:  # an empty item's marker is not the next block's
                self.buffers[-1].marker = ""

    def text(self, text: str | None, parent: Any) -> None:
        """Add text directly inside `parent`."""
        rules, name = self._rules, local(parent)
        if text and (not rules.texts or name in rules.texts):
            self.buffers[-1].add(text, verbatim=name in rules.texts or name in rules.verbatim)

    def _is_cell(self, name: str) -> bool:
        return name in self._rules.cells and bool(self._rows) and self._rows[-1] is not None

    def _end_row(self, element: Any) -> None:
        cells = self._rows.pop() or []
        row = BAR.join(" ".join(cell.split()) for cell in cells).rstrip(BAR) if len(cells) > 1 else "".join(cells)
        times = count(attribute(element, "number-rows-repeated"))
        for _ in range(min(times, _MAX_REPEATED) if row.strip() else 0):
            self.buffers[-1].add(row, verbatim=True)
            self.buffers[-1].end_block(1)


class _Buffer:
    """Collects text in blocks, which are paragraphs or lines."""

    def __init__(self) -> None:
        self._blocks: list[tuple[int, int, str]] = []  # line breaks before it, level, text
        self._parts: list[str] = []
        self._breaks = 0
        self.level = 0
        self.marker = ""

    def add(self, text: str, *, verbatim: bool = False) -> None:
        """Append to the block; white space is collapsed unless `verbatim`."""
        if not verbatim:
            text = _SPACES.sub(" ", text)
            if not self._parts or self._parts[-1][-1].isspace():
                text = text.lstrip(" ")
        if text:
            self._parts.append(text)

    def end_block(self, breaks: int) -> None:
        """End the block; at least `breaks` line breaks follow."""
        text = "".join(self._parts).strip("\n").rstrip()
        if text:
            self._blocks.append((self._breaks, self.level, self.marker + text))
            self._breaks, self.marker = 0, ""
        self._parts = []
        self._breaks = max(self._breaks, breaks)

    def finish(self) -> tuple[str, list[Heading]]:
        """The whole text and its headings."""
        self.end_block(0)
        text: list[str] = []
        headings: list[Heading] = []
        length = 0
        for breaks, level, block in self._blocks:
            before = "\n" * breaks if text else ""
            length += len(before)
            headings += [(length, level, " ".join(block.split())[:_MAX_LABEL])] if level else []
            text.append(before + block)
            length += len(block)
        return "".join(text), headings
