"""What viewers show on a PDF's page that is not in its content: values of form fields, and notes.

Each is put into the page's text where it stands: behind its label, that is the text before it on its line or right
above it. Where there is none, it comes last, with the name of its field.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

_HIDDEN = 1 << 1 | 1 << 5  # hidden, and not for viewing
_PASSWORD, _PUSH_BUTTON = 1 << 13, 1 << 16
#: Links show the page's own text, pop-up windows that of the note they belong to.
_NO_NOTES = {"/Link", "/Popup", "/Widget"}
#: A label is not farther from its field, in points, and a line above counts as so much farther.
_FARTHEST, _ABOVE = 150.0, 3.0
_DEEPEST = 32  # fields in fields


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
        """The text as a line of its own."""
        return f"{self.name}: {self.text}" if self.name else self.text


class Label(NamedTuple):
    """A text of the page's content: its number among them, and its place."""

    number: int
    left: float
    right: float
    y: float


def marks_of(page: Any) -> list[Mark]:
    """The values and notes of a page, from top to bottom."""
    annotations = entry(page, "/Annots")
    found = [mark for one in objects(annotations) if (mark := _mark(one)) is not None]
    return sorted(found, key=lambda mark: (-mark.top, mark.left))


def place(texts: list[str], labels: Iterable[Label], marks: Iterable[Mark]) -> tuple[list[str], list[Mark]]:
    """The texts of a page's content with the marks behind their labels, and the marks that have none."""
    labels = list(labels)
    behind: dict[int, list[str]] = {}
    left: list[Mark] = []
    for mark in marks:
        near = min(((_distance(label, mark), label.number) for label in labels), default=(math.inf, -1))
        if near[0] <= _FARTHEST:
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
    """How far a label is from its mark: to the left of it, or above it; infinite elsewhere."""
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
    """What a form's field shows, and what it is called."""
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
        shown = {_text(pair[0]): _text(pair[1]) for pair in objects(field.get("/Opt")) if isinstance(pair, list)}
        values = list(map(_text, value)) if isinstance(value, list) else [_text(value)]
        return ", ".join(shown.get(one, one) for one in values), name
    return ("" if flags & _PASSWORD or field.get("/FT") != "/Tx" else _text(value)), name


def _parents(field: Any) -> Iterator[Any]:
    for _ in range(_DEEPEST):
        if (field := entry(field, "/Parent")) is None:
            return
        yield field


def objects(array: Any) -> Iterator[Any]:
    """What an array of references refers to."""
    return filter(None, (one.get_object() for one in array)) if isinstance(array, list) else iter(())


def entry(values: Any, key: str) -> Any:
    """An entry itself where a reference to it stands, None where there is none."""
    return values[key] if key in values else None  # noqa: SIM401  # `get` gives the reference


def _text(value: Any) -> str:
    """A string, or the text of a stream."""
    if hasattr(value, "get_data"):
        value = value.get_data().decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


def _number(values: Any, key: str) -> int:
    value = entry(values, key)
    return value if isinstance(value, int) else 0
