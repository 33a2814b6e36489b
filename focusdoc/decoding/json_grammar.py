"""Answers that are JSON by construction: a grammar library says at every token which tokens may come next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from focusdoc.errors import ConfigError
from focusdoc.modeling.base import BaseModel

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

#: The one command that installs the grammar library.
INSTALL_COMMAND = "pip install 'focusdoc[structured]'"
#: What JSON mode without a schema asks for.
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


def grammar_tokenizer(base: BaseModel) -> LLTokenizer:
    """The model's vocabulary as the grammar library needs it; takes about a second, so keep it.

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
    """The JSON documents that fit a JSON schema, written without white space between their parts.

    An object whose properties the schema names holds no others, unless its ``additionalProperties`` allows them.

    Args:
        tokenizer: of `grammar_tokenizer`.
        schema: a JSON schema; `ANY_OBJECT` for any JSON object.

    Raises:
        ConfigError: the schema is none, or uses what the grammar library does not know.
    """

    def __init__(self, tokenizer: LLTokenizer, schema: Mapping[str, Any]) -> None:
        from llguidance import LLMatcher

        self._tokenizer = tokenizer
        try:
            # Small models fill the room between two parts with white space for ever, where they may.
            self._grammar = LLMatcher.grammar_from_json_schema(
                _closed(dict(schema)), defaults={"whitespace_flexible": False}
            )
        except (TypeError, ValueError) as error:
            raise ConfigError(f"This JSON schema cannot be used: {error}") from error
        if problem := LLMatcher.validate_grammar(self._grammar, tokenizer):
            raise ConfigError(f"This JSON schema cannot be used: {problem.splitlines()[0]}")
        self._marks = Marks.of(tokenizer)
        #: Tokens that ending an answer may take: the names still to come, and their marks.
        self._reserve = 8 + sum(len(tokenizer.tokenize_str(f',"{name}":""')) for name in _names(schema))

    def start(self, max_new_tokens: int) -> JsonState:
        """The state before the first token of one answer, which may have `max_new_tokens`."""
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokenizer, self._grammar, log_level=0)
        return JsonState(matcher, self._marks, max_new_tokens - min(self._reserve, max_new_tokens // 2))


def _closed(schema: Any) -> Any:
    """The schema with no room for properties that it does not name: a model would go on inventing them."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {
        key: {name: _closed(part) for name, part in value.items()}
        if key in ("properties", "$defs", "definitions") and isinstance(value, dict)
        else _closed(value)
        for key, value in schema.items()
        if key not in ("enum", "const", "default", "examples")
    }
    closed |= {key: schema[key] for key in ("enum", "const", "default", "examples") if key in schema}
    if "properties" in closed:
        closed.setdefault("additionalProperties", False)
    return closed


def _names(schema: Any) -> Iterator[str]:
    """The names of all properties in a schema."""
    if isinstance(schema, Mapping):
        if isinstance(schema.get("properties"), Mapping):
            yield from schema["properties"]
        for part in schema.values():
            yield from _names(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _names(part)


@dataclass(frozen=True, slots=True)
class Marks:
    """The tokens that end things: all answers, texts, then objects, lists and single values."""

    ends: tuple[int, ...]
    quote: int
    letter: int
    closing: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: LLTokenizer) -> Marks:
        """Those of a vocabulary. One that has no token for a mark alone merely does without it."""
        one = {mark: tokenizer.tokenize_str(mark)[0] for mark in '"a}],'}
        return cls(tuple(tokenizer.eos_tokens), one['"'], one["a"], (one["}"], one["]"], one[","]))


class JsonState:
    """Where one answer stands; see `focusdoc.config.GrammarState`.

    Args:
        hurry_after: tokens after which the answer is brought to its end the shortest way. Small models fill a text
            until they are stopped, and half an answer is none.
    """

    def __init__(self, matcher: LLMatcher, marks: Marks, hurry_after: int) -> None:
        self._matcher = matcher
        self._marks = marks
        self._left = hurry_after

    def mask(self, scores: Tensor) -> Tensor:
        """`scores` [1, vocab] with minus infinity for every token that may not come next."""
        # One byte a token: 0, or 200 where the token is allowed.
        allowed = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8).bool()
        if self._left <= 0:
            allowed = self._shortest(allowed)
        return scores.masked_fill(~allowed[: scores.shape[-1]], float("-inf"))

    def accept(self, token: int) -> None:
        """Go on past the chosen `token`."""
        self._left -= 1
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)

    def _shortest(self, allowed: Tensor) -> Tensor:
        """Of the `allowed` tokens [vocab] the one that brings the answer nearest to its end; else all of them."""
        marks = self._marks
        in_text = bool(allowed[marks.letter]) and bool(allowed[marks.quote])
        for mark in (*marks.ends, *((marks.quote,) if in_text else marks.closing)):
            if allowed[mark]:
                return torch.zeros_like(allowed).index_fill_(0, torch.tensor([mark]), True)
        return allowed
