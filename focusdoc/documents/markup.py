"""Markup as text: what a viewer shows of HTML, and of the XML inside e-books and office files.

Paragraphs stand apart by a blank line, a table's row is a line with its cells between bars, an item of a list begins
with its number or a dash. Scripts and styles are no text. Nothing outside the file is ever fetched, and no entity but
the characters of HTML is expanded. Run in the child process.
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
#: What a link to a footnote says.
_MARK = re.compile(r"[\[(]?(?:\d{1,4}|[*†‡§]{1,4}|[a-z])[\])]?")
_LONGEST_LABEL = 200
#: A cell that is repeated (to the end of a sheet, say) is written so often, at most.
_MOST_REPEATED = 1000
#: One cell after the other.
BAR = " | "

Heading = tuple[int, int, str]  # where it begins in the text, its level, its words


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the elements of a kind of markup are, by their local names.

    Attributes:
        paragraphs, lines: stand on lines of their own, with or without a blank line around them.
        rows, cells: of tables.
        notes: stand in the middle of a paragraph; they are put in brackets.
        skipped: no text, with all that is in them.
        breaks: what they stand for.
        verbatim: their white space counts.
        texts: nothing else holds text, and in these all white space counts; empty where every element may.
        level: of a heading, 0 for other elements.
        marker: what an item of a list begins with, "" for other elements.
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
        """Line breaks before and behind an element: 2, 1 or none."""
        return 2 if name in self.paragraphs else int(name in self.lines)


def names(words: str) -> frozenset[str]:
    """The names of elements, apart by spaces."""
    return frozenset(words.split())


def parse_xml(data: bytes) -> Any:
    """The tree of an XML file; its entities are not expanded.

    Raises:
        lxml.etree.XMLSyntaxError: it is damaged, or larger or nested deeper than libxml2 thinks safe.
    """
    return etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False))


def local(element: Any) -> str:
    """The name of an element without its namespace; "" for comments and the like."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def attribute(element: Any, name: str) -> str:
    """The attribute of this local name in whatever namespace, "" if there is none."""
    return next((str(value) for key, value in element.items() if key.rpartition("}")[2] == name), "")


def count(value: str) -> int:
    """A whole number; 1 where there is none."""
    return int(value) if value.isdecimal() else 1


def written(root: Any, rules: Rules) -> tuple[str, list[Heading]]:
    """The text of a tree, and the headings in it."""
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
    """The text cut at its headings of the highest level that occurs more than once, and what each part is called."""
    levels = Counter(level for _, level, _ in headings)
    top = min((level for level, count in levels.items() if count > 1), default=0)
    cuts: dict[int, str | None] = {0: None} | {start: words for start, level, words in headings if level <= top}
    parts = [text[start:end] for start, end in pairwise([*cuts, len(text)])]
    kept = [(part, label) for part, label in zip(parts, cuts.values(), strict=True) if part.strip() or label]
    return [part for part, _ in kept] or [text], [label for _, label in kept]


def _reference(element: Any) -> str:
    """A footnote's mark in brackets, or the power of a number; else they would be digits of what they stand behind."""
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
    """Takes the elements of a tree one after the other."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        #: The text, and on top of it the notes and cells that are open.
        self.buffers = [_Buffer()]
        #: Of the rows that are open, the texts of their cells; None for those that only arrange other tables.
        self._rows: list[list[str] | None] = []

    def start(self, element: Any) -> bool:
        """Begin an element; False where what is in it is to be skipped."""
        rules, name, buffer = self._rules, local(element), self.buffers[-1]
        if name in rules.skipped or _hidden(element):
            return False
        if mark := _reference(element):
            buffer.add(mark)
            return False
        if name in rules.breaks:
            times = count(attribute(element, "c"))  # OpenDocument counts spaces
            buffer.add(rules.breaks[name] * min(times, _MOST_REPEATED), verbatim=True)
        elif name in rules.rows:
            buffer.end_block(1)
            inner = any(local(other) in rules.rows for other in element.iterdescendants())
            self._rows.append(None if inner else [])
        elif self._is_cell(name) or name in rules.notes:
            self.buffers.append(_Buffer())
        elif breaks := rules.breaks_around(name):
            buffer.end_block(breaks)
            buffer.level = rules.level(element)
            buffer.marker = rules.marker(element) or buffer.marker
        self.text(element.text, element)
        return True

    def end(self, element: Any) -> None:
        """End an element, skipped ones too."""
        rules, name = self._rules, local(element)
        if name in rules.skipped or _hidden(element):
            return
        if name in rules.rows:
            self._end_row(element)
        elif self._is_cell(name):
            times = count(attribute(element, "number-columns-repeated"))
            cell = self.buffers.pop().finish()[0]
            self._rows[-1] += [cell] * min(times, _MOST_REPEATED)  # type: ignore[operator]  # a cell has a row
        elif name in rules.notes:
            note = " ".join(self.buffers.pop().finish()[0].split())
            self.buffers[-1].add(f" [{note}]")
        elif breaks := rules.breaks_around(name):
            self.buffers[-1].end_block(breaks)
            self.buffers[-1].level = 0

    def text(self, text: str | None, parent: Any) -> None:
        """Text right inside `parent`."""
        rules, name = self._rules, local(parent)
        if text and (not rules.texts or name in rules.texts):
            self.buffers[-1].add(text, verbatim=name in rules.texts or name in rules.verbatim)

    def _is_cell(self, name: str) -> bool:
        return name in self._rules.cells and bool(self._rows) and self._rows[-1] is not None

    def _end_row(self, element: Any) -> None:
        cells = self._rows.pop() or []
        row = BAR.join(" ".join(cell.split()) for cell in cells).rstrip(BAR) if len(cells) > 1 else "".join(cells)
        times = count(attribute(element, "number-rows-repeated"))
        for _ in range(min(times, _MOST_REPEATED) if row.strip() else 0):
            self.buffers[-1].add(row, verbatim=True)
            self.buffers[-1].end_block(1)


class _Buffer:
    """Text that grows block by block, a block being a paragraph or a line."""

    def __init__(self) -> None:
        self._blocks: list[tuple[int, int, str]] = []  # line breaks before it, level, text
        self._parts: list[str] = []
        self._breaks = 0
        self.level = 0
        self.marker = ""

    def add(self, text: str, *, verbatim: bool = False) -> None:
        """Go on with the block; white space is collapsed unless it is `verbatim`."""
        if not verbatim:
            text = _SPACES.sub(" ", text)
            if not self._parts or self._parts[-1][-1].isspace():
                text = text.lstrip(" ")
        if text:
            self._parts.append(text)

    def end_block(self, breaks: int) -> None:
        """What comes next stands at least `breaks` lines below."""
        text = "".join(self._parts).strip("\n").rstrip()
        if text:
            self._blocks.append((self._breaks, self.level, self.marker + text))
            self._breaks, self.marker = 0, ""
        self._parts = []
        self._breaks = max(self._breaks, breaks)

    def finish(self) -> tuple[str, list[Heading]]:
        """All of the text, and its headings."""
        self.end_block(0)
        text: list[str] = []
        headings: list[Heading] = []
        length = 0
        for breaks, level, block in self._blocks:
            before = "\n" * breaks if text else ""
            length += len(before)
            headings += [(length, level, " ".join(block.split())[:_LONGEST_LABEL])] if level else []
            text.append(before + block)
            length += len(block)
        return "".join(text), headings
