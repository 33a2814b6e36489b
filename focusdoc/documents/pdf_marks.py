"""Annotations of a PDF page that are not in its content stream: values of form fields, and notes.

Each is inserted into the page's text behind its label, which is the text before it on its line or right above it.
Without a label it is appended, with the name of its field.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

_HIDDEN = 1 << 1 | 1 << 5  # hidden, and not for viewing
_PASSWORD, _PUSH_BUTTON = 1 << 13, 1 << 16
#: Links show the page's text, pop-ups repeat their note.
_NO_NOTES = {"/Link", "/Popup", "/Widget"}
#: Most distance between a label and its field in points, and the weight of vertical distance.
_MAX_DISTANCE, _ABOVE = 150.0, 3.0
_MAX_DEPTH = 32  # of nested fields


class Mark(NamedTuple):
    """A text and its rectangle on the page, in points; `name` is that of the field."""

    left: float
    bottom: float
    right: float
    top: float
    text: str
    name: str = ""

    @property
    def line(self) -> str:
        """The text as a separate line."""
        return f"{self.name}: {self.text}" if self.name else self.text


class Label(NamedTuple):
    """A piece of the page's text: its index and its position."""

    number: int
    left: float
    right: float
    y: float


def marks_of(page: Any) -> list[Mark]:
    """The form values and notes of a page, from top to bottom."""
    annotations = entry(page, "/Annots")
    found = [mark for one in objects(annotations) if (mark := _mark(one)) is not None]
    return sorted(found, key=lambda mark: (-mark.top, mark.left))


def insert_marks(texts: list[str], labels: Iterable[Label], marks: Iterable[Mark]) -> tuple[list[str], list[Mark]]:
    """Insert marks behind their labels; returns the texts, and the marks without a label."""
    labels = list(labels)
    behind: dict[int, list[str]] = {}
    left: list[Mark] = []
    for mark in marks:
        near = min(((_distance(label, mark), label.number) for label in labels), default=(math.inf, -1))
        if near[0] <= _MAX_DISTANCE:
            behind.setdefault(near[1], []).append(mark.text)
        else:
            left.append(mark)
    for number, added in behind.items():
        text = texts[number].rstrip()
        rest = texts[number][len(text) :]
        goes_on = not rest and not "".join(texts[number + 1 : number + 2])[:1].isspace()
        texts[number] = " ".join([text, *added]) + (" " if goes_on else rest)
    return texts, left


def _distance(label: Label, mark: Mark) -> float:
    """The distance from a label to the mark on its right or below it; infinite elsewhere."""
    if mark.bottom - 2 <= label.y <= mark.top and label.left <= mark.left + 2:
        return max(0.0, mark.left - label.right)
    if label.y >= mark.top and label.left <= mark.right and label.right >= mark.left:
        return _ABOVE * (label.y - mark.top)
    return math.inf


def _mark(annotation: Any) -> Mark | None:
    if _number(annotation, "/F") & _HIDDEN:
        return None
    kind = entry(annotation, "/Subtype")
    text, name = _value(annotation) if kind == "/Widget" else (_note(annotation, kind), "")
    text = " ".join(text.split())
    try:
        x, y, other_x, other_y = (float(number) for number in annotation["/Rect"])
    except (KeyError, TypeError, ValueError):
        x = y = other_x = other_y = 0.0
    place = (min(x, other_x), min(y, other_y), max(x, other_x), max(y, other_y))
    return Mark(*place, text, name) if text else None


def _note(annotation: Any, kind: Any) -> str:
    if kind in _NO_NOTES or not (text := _text(entry(annotation, "/Contents"))).strip():
        return ""
    return text if kind == "/FreeText" else f"[{text}]"


def _value(widget: Any) -> tuple[str, str]:
    """The value and the name of a form field."""
    field = {
        key: value
        for one in reversed([widget, *_parents(widget)])
        for key in ("/FT", "/V", "/TU", "/T", "/Ff", "/Opt")
        if (value := entry(one, key)) is not None
    }
    name = _text(field.get("/TU")) or _text(field.get("/T"))
    flags, value = _number(field, "/Ff"), field.get("/V")
    if field.get("/FT") == "/Btn":
        checked = entry(widget, "/AS") not in (None, "/Off") and not flags & _PUSH_BUTTON
        return ("[x]" if checked else ""), name
    if field.get("/FT") == "/Ch":
        pairs = (pair for pair in _resolved(field.get("/Opt")) if isinstance(pair, list) and len(pair) > 1)
        shown = {_text(pair[0]): _text(pair[1]) for pair in pairs}
        values = list(map(_text, value)) if isinstance(value, list) else [_text(value)]
        return ", ".join(shown.get(one, one) for one in values), name
    return ("" if flags & _PASSWORD or field.get("/FT") != "/Tx" else _text(value)), name


def _parents(field: Any) -> Iterator[Any]:
    for _ in range(_MAX_DEPTH):
        if (field := entry(field, "/Parent")) is None:
            return
        yield field


def objects(array: Any) -> Iterator[Any]:
    """The dictionaries that an array of references refers to."""
    return (each for each in _resolved(array) if isinstance(each, dict) and each)


def _resolved(array: Any) -> Iterator[Any]:
    """The items of an array; nothing for anything else."""
    return (one.get_object() for one in array) if isinstance(array, list) else iter(())


def entry(values: Any, key: str) -> Any:
    """The entry of a dictionary with references resolved, or None."""
    return values[key] if key in values else None  # noqa: SIM401  # `get` returns the reference


def _text(value: Any) -> str:
    """A string, or the text of a stream."""
    if hasattr(value, "get_data"):
        value = value.get_data().decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


def _number(values: Any, key: str) -> int:
    value = entry(values, key)
    return value if isinstance(value, int) else 0
