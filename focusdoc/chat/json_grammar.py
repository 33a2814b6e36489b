"""JSON answers by constrained decoding: a grammar library masks the tokens that are not allowed next."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from focusdoc.errors import ConfigError
from focusdoc.modeling.base import BaseModel

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

#: The schema of JSON mode without a schema.
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


def grammar_tokenizer(base: BaseModel) -> LLTokenizer:
    """The model's vocabulary for the grammar library; takes about a second, so cache it.

    Raises:
        ConfigError: the library is not installed, or the model has no fast tokenizer.
    """
    try:
        from llguidance import LLTokenizer
    except ImportError:
        needed = "Structured answers need the grammar library llguidance"
        raise ConfigError(f"{needed}; run: pip install 'focusdoc[structured]'") from None
    if not getattr(base.tokenizer, "is_fast", False):
        raise ConfigError(f"{base.name} has no fast tokenizer, which structured answers need; pass tokenizer=.")
    with base.tokenizer_lock:
        vocabulary = base.tokenizer.backend_tokenizer.to_str()  # type: ignore[union-attr]
    return LLTokenizer(vocabulary, n_vocab=base.config.vocab_size, eos_token=sorted(base.eos_token_ids))


class JsonGrammar:
    """The grammar of JSON that matches a JSON schema, without white space between tokens.

    Objects may only have the properties in the schema, unless it sets ``additionalProperties``.

    Args:
        tokenizer: from `grammar_tokenizer`.
        schema: a JSON schema; `ANY_OBJECT` for any JSON object.

    Raises:
        ConfigError: the schema is invalid, or uses features that the grammar library does not support.
    """

    def __init__(self, tokenizer: LLTokenizer, schema: Mapping[str, Any]) -> None:
        from llguidance import LLMatcher

        self._tokenizer = tokenizer
        try:
            # If white space is allowed, small models generate it endlessly.
            self._grammar = LLMatcher.grammar_from_json_schema(
                _closed(dict(schema), _joined(schema)), defaults={"whitespace_flexible": False}
            )
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"This JSON schema cannot be used: {error}") from error
        if problem := LLMatcher.validate_grammar(self._grammar, tokenizer):
            raise ConfigError(f"This JSON schema cannot be used: {problem.splitlines()[0]}")

    def start(self) -> JsonState:
        """The state before the first token of one answer."""
        from llguidance import LLMatcher

        return JsonState(LLMatcher(self._tokenizer, self._grammar, log_level=0))


#: Most properties that the parts of an ``allOf`` may have together, times the number of parts.
_MAX_SHARED = 10_000


def _closed(schema: Any, joined: Set[str], *, close: bool = True) -> Any:
    """The schema without additional properties, which a model would invent endlessly.

    Args:
        joined: see `_joined`; these definitions stay open, as their closing would forbid the others' properties.
        close: whether the schema itself is closed, not only what is in it.
    """
    if isinstance(schema, list):
        return [_closed(part, joined) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(schema.get("allOf"), list) or "$ref" in schema:
        schema = _with_shared_properties(schema)
    closed: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("$defs", "definitions") and isinstance(value, dict):
            opened = {name for name in value if f"#/{key}/{name}" in joined}
            closed[key] = {name: _closed(part, joined, close=name not in opened) for name, part in value.items()}
        elif key == "properties" and isinstance(value, dict):
            closed[key] = {name: _closed(part, joined) for name, part in value.items()}
        else:
            closed[key] = value if key in ("enum", "const", "default", "examples") else _closed(value, joined)
    if close and "properties" in closed:
        closed.setdefault("additionalProperties", False)
    return closed


def _joined(schema: Any) -> set[str]:
    """The references in a schema to objects that others add properties to, by ``allOf`` or beside the reference."""
    found: set[str] = set()
    stack = [schema]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            if len(objects := _parts(part)) > 1:
                found |= {each["$ref"] for each in objects if isinstance(each.get("$ref"), str)}
            stack += part.values()
        elif isinstance(part, list):
            stack += part
    return found


def _parts(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of an object that its ``allOf`` joins, itself included if it has properties or refers to others."""
    parts = schema["allOf"] if isinstance(schema.get("allOf"), list) else []
    own: list[dict[str, Any]] = [{key: schema[key]} for key in ("properties", "$ref") if key in schema]
    return own + [part for part in parts if isinstance(part, dict) and {"properties", "$ref", "allOf"} & set(part)]


def _with_shared_properties(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema whose parts allow each other's properties; they stay open if some are only referred to.

    Raises:
        ValueError: there are too many.
    """
    parts = _parts(schema)
    if len(parts) < 2:
        return schema
    names: dict[str, Any] = {name: {} for part in parts for name in part.get("properties", ())}
    if len(names) * len(parts) > _MAX_SHARED:
        raise ValueError(f"its allOf joins {len(parts)} objects of {len(names)} properties")
    stays_open = any("properties" not in part for part in parts)

    def shared(part: Any) -> Any:
        if not isinstance(part, dict) or not isinstance(part.get("properties"), dict):
            return part
        if stays_open:
            return {"additionalProperties": True} | part
        return part | {"properties": names | part["properties"]}

    joined = [shared(part) for part in schema["allOf"]] if isinstance(schema.get("allOf"), list) else None
    own: dict[str, Any] = shared(schema)
    return own if joined is None else own | {"allOf": joined}


class JsonState:
    """The grammar state of one answer; see `focusdoc.config.GrammarState`."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def complete(self) -> bool:
        """Whether the JSON is complete."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def mask(self, scores: Tensor) -> Tensor:
        """`scores` [1, vocab] with minus infinity for tokens that are not allowed."""
        # One byte per token: 200 if it is allowed, else 0.
        allowed = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8).bool()
        return scores.masked_fill(~allowed[: scores.shape[-1]], float("-inf"))

    def accept(self, token: int) -> None:
        """Advance by the chosen `token`."""
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)
