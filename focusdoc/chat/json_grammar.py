"""Answers that are JSON by construction: a grammar library says at every token which tokens may come next."""

from __future__ import annotations

from collections.abc import Mapping
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

    def start(self) -> JsonState:
        """The state before the first token of one answer."""
        from llguidance import LLMatcher

        return JsonState(LLMatcher(self._tokenizer, self._grammar, log_level=0))


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


class JsonState:
    """Where one answer stands; see `focusdoc.config.GrammarState`."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def complete(self) -> bool:
        """Whether the JSON is whole and nothing more may come."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def mask(self, scores: Tensor) -> Tensor:
        """`scores` [1, vocab] with minus infinity for every token that may not come next."""
        # One byte a token: 0, or 200 where the token is allowed.
        allowed = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8).bool()
        return scores.masked_fill(~allowed[: scores.shape[-1]], float("-inf"))

    def accept(self, token: int) -> None:
        """Go on past the chosen `token`."""
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)
