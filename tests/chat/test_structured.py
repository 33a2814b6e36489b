"""Types as schemas, answers as objects, and what a cut answer lacks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from focusdoc.chat.structured import AnswerType, missing_fields
from focusdoc.errors import ConfigError, IncompleteAnswerError


class Colour(Enum):
    BLUE = "blue"
    RED = "red"


class Corner(Enum):
    FIRST = (0, 0)


@dataclass
class Point:
    x: int
    y: int = 0


class House(BaseModel):
    colour: Colour
    corners: list[Point]
    owner: str


@pytest.mark.parametrize(
    ("kind", "text", "wanted"),
    [
        (Colour, '"blue"', Colour.BLUE),
        (Point, '{"x":3}', Point(3)),
        (Literal["a", "b"], '"b"', "b"),
        (list[Point], '[{"x":1,"y":2}]', [Point(1, 2)]),
        (bool, "true", True),
        (
            House,
            '{"colour":"red","corners":[{"x":1}],"owner":"Ada"}',
            House(colour=Colour.RED, corners=[Point(1)], owner="Ada"),
        ),
    ],
)
def test_an_answer_is_an_object_of_its_type(kind: Any, text: str, wanted: Any) -> None:
    assert AnswerType.of(kind).parse(text, "stop", 9) == wanted


def test_the_schema_of_an_enum_is_its_values() -> None:
    assert AnswerType.of(Colour).schema["enum"] == ["blue", "red"]


@pytest.mark.parametrize("kind", [None, 7, "text", print, Colour.BLUE, Corner, Point(1)])
def test_what_is_no_schema_is_refused(kind: Any) -> None:
    with pytest.raises(ConfigError, match="schema cannot be used, since objects of"):
        AnswerType.of(kind)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", ["colour", "corners", "owner"]),
        ('{"colour":"bl', ["colour", "corners", "owner"]),
        ('{"colour":"blue","corners":[{"x":1,"y":2},{', ["owner", "corners[1].x"]),
        ('{"colour":"blue","corners":[{"x":12', ["owner", "corners[0].x"]),
        ('{"colour":"blue","corners":[],"owner":"Ada', ["owner"]),
        ('{"colour":"blue","corners":[],"owner":"Ada"', []),
    ],
)
def test_fields_that_a_cut_answer_lacks(text: str, wanted: list[str]) -> None:
    assert missing_fields(AnswerType.of(House).schema, text) == wanted


def test_a_cut_answer_names_its_budget_the_remedy_and_what_is_missing() -> None:
    kind = AnswerType.of(House)
    with pytest.raises(
        IncompleteAnswerError, match=r"\(length\) after 7 tokens, .*'corners' and 'owner' came; raise max_new_tokens"
    ):
        kind.parse('{"colour":"blue"', "length", 7)
    with pytest.raises(IncompleteAnswerError, match="before its JSON was closed; raise max_tokens"):
        kind.parse('{"colour":"blue","corners":[],"owner":"Ada"', "length", 7, limit="max_tokens")
    with pytest.raises(IncompleteAnswerError, match="'owner' came; leave out the stop string"):
        kind.parse('{"colour":"blue","corners":[],"owner":"A', "stop", 7)
    with pytest.raises(IncompleteAnswerError, match="ask again"):
        kind.parse("", "cancelled", 0)


def test_a_number_without_its_end_is_no_answer() -> None:
    with pytest.raises(IncompleteAnswerError):
        AnswerType.of(int).parse("12", "length", 2)


def test_a_schema_that_refers_to_itself_ends() -> None:
    schema = {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}
    assert missing_fields(schema, "{") == []
