"""JSON answers by constrained decoding: a grammar library masks the tokens that are not allowed next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from focusdoc.errors import ConfigError
from focusdoc.modeling.base import BaseModel

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

#: The command that installs the grammar library.
INSTALL_COMMAND = "pip install 'focusdoc[structured]'"
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
        raise ConfigError(f"Structured answers need the grammar library llguidance; run: {INSTALL_COMMAND}") from None
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
                _closed(dict(schema), schema), defaults={"whitespace_flexible": False}
            )
        except (TypeError, ValueError) as error:
            raise ConfigError(f"This JSON schema cannot be used: {error}") from error
        if problem := LLMatcher.validate_grammar(self._grammar, tokenizer):
            raise ConfigError(f"This JSON schema cannot be used: {problem.splitlines()[0]}")

    def start(self) -> JsonState:
        """The state before the first token of one answer."""
        from llguidance import LLMatcher

        return JsonState(LLMatcher(self._tokenizer, self._grammar, log_level=0))


def _closed(schema: Any, root: Mapping[str, Any]) -> Any:
    """The schema, a part of `root`, without additional properties, which a model would invent endlessly."""
    if isinstance(schema, list):
        return [_closed(part, root) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(schema.get("allOf"), list):
        schema = _with_shared_properties(schema, root)
    closed = {
        key: {name: _closed(part, root) for name, part in value.items()}
        if key in ("properties", "$defs", "definitions") and isinstance(value, dict)
        else _closed(value, root)
        for key, value in schema.items()
        if key not in ("enum", "const", "default", "examples")
    }
    closed |= {key: schema[key] for key in ("enum", "const", "default", "examples") if key in schema}
    if "properties" in closed:
        closed.setdefault("additionalProperties", False)
    return closed


def _with_shared_properties(schema: dict[str, Any], root: Mapping[str, Any]) -> dict[str, Any]:
    """A schema whose parts (``allOf``) allow each other's properties, as closing each alone would forbid all."""
    parts = [_defined(part, root) for part in schema["allOf"]]
    objects = [part for part in (schema, *parts) if isinstance(part, dict) and isinstance(part.get("properties"), dict)]
    names: dict[str, Any] = {name: {} for part in objects for name in part["properties"]}
    shared = [{**part, "properties": names | part["properties"]} if part in objects else part for part in parts]
    own = {"properties": names | schema["properties"]} if schema in objects else {}
    return {**schema, **own, "allOf": shared}


def _defined(part: Any, root: Mapping[str, Any]) -> Any:
    """The definition in `root` that a part refers to, or the part itself."""
    if not isinstance(part, dict) or len(part) != 1 or not isinstance(part.get("$ref"), str):
        return part
    definitions, _, name = part["$ref"].removeprefix("#/").partition("/")
    found = root.get(definitions)
    return found.get(name, part) if isinstance(found, dict) else part


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
