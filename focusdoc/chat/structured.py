"""Structured answers: types to JSON schemas, answers to objects, and the missing fields of truncated answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pydantic import PydanticUserError, TypeAdapter
from pydantic_core import from_json, to_json

from focusdoc.errors import ConfigError, IncompleteAnswerError, first_line

#: Remedies for an answer that ended early, by its finish reason.
_REMEDIES = {"length": "raise {}", "stop": "leave out the stop string that ended it", "cancelled": "ask again"}

#: Most references to follow, so that cycles end.
_MAX_REFERENCES = 16


@dataclass(frozen=True)
class AnswerType:
    """The type of structured answers.

    Attributes:
        schema: their JSON schema.
        read: parses JSON to an object; by default to lists and dictionaries.
    """

    schema: Mapping[str, Any]
    read: Callable[[str], Any] = json.loads

    @classmethod
    def of(cls, kind: Any) -> AnswerType:
        """The answer type for a Python type: a pydantic class, a dataclass, an Enum, a Literal, ``list[...]`` etc.

        Raises:
            ConfigError: it has no JSON schema, or its objects cannot be parsed from JSON.
        """
        try:
            if kind is None:
                raise TypeError("None is not a type")
            adapter: TypeAdapter[Any] = TypeAdapter(kind)
            schema = adapter.json_schema()
            for member in kind if isinstance(kind, type) and issubclass(kind, Enum) else ():
                adapter.validate_json(to_json(member.value))  # an Enum of tuples accepts no lists
        except (PydanticUserError, AttributeError, NameError, TypeError, ValueError) as error:
            raise ConfigError(
                f"This schema cannot be used, since objects of {kind!r} cannot be parsed from JSON: "
                f"{first_line(error).rstrip('.')}."
            ) from error
        return cls(schema, adapter.validate_json)

    def parse(self, text: str, finish_reason: str, num_tokens: int, *, limit: str = "max_new_tokens") -> Any:
        """Parse an answer to an object.

        Args:
            num_tokens: tokens of the answer.
            limit: the caller's name for the token limit, for the error message.

        Raises:
            IncompleteAnswerError: the answer ended before its JSON did. ValueError: the type rejects its values.
        """
        complete = finish_reason == "stop"
        try:
            if complete:
                json.loads(text)
        except ValueError:
            complete = False
        if not complete:
            missing = " and ".join(map(repr, missing_fields(self.schema, text)))
            raise IncompleteAnswerError(
                f"The structured answer ended early ({finish_reason}) after {num_tokens} tokens, before "
                f"{f'its required {missing} came' if missing else 'its JSON was closed'}; "
                f"{_REMEDIES[finish_reason].format(limit)}."
            )
        return self.read(text)


def missing_fields(schema: Mapping[str, Any], text: str) -> list[str]:
    """The required fields that are missing or incomplete in truncated JSON, as ``owner.name`` or ``list[2].name``."""
    try:
        partial = from_json(text.rstrip("+-.eE0123456789"), allow_partial=True)  # a last number may be incomplete
    except ValueError:  # neither an object nor a list
        partial = {}

    def walk(part: Any, value: Any, place: str) -> Iterator[str]:
        part = _resolved(part, schema)
        if isinstance(value, list) and value:  # earlier items are complete
            yield from walk(part.get("items", {}), value[-1], f"{place}[{len(value) - 1}]")
        if isinstance(value, dict):
            prefix = f"{place}." if place else ""
            for name in part.get("required", ()):
                if name not in value:
                    yield prefix + name
            for name, inner in value.items():
                yield from walk(part.get("properties", {}).get(name, {}), inner, prefix + name)

    return list(walk(schema, partial, ""))


def _resolved(part: Any, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A part of a schema with its reference resolved; choices (``anyOf``) are not followed."""
    for _ in range(_MAX_REFERENCES):
        if not isinstance(part, Mapping) or not isinstance(part.get("$ref"), str):
            return part if isinstance(part, Mapping) else {}
        names = part["$ref"].removeprefix("#").strip("/").split("/")
        part = schema
        for name in filter(None, names):
            part = part.get(name, {}) if isinstance(part, Mapping) else {}
    return {}
