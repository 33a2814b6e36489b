"""Structured output: grammars for constrained decoding from schemas, and parsing answers to objects."""

from __future__ import annotations

import inspect
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from langchain_core.exceptions import OutputParserException
from langchain_core.output_parsers import BaseCumulativeTransformOutputParser
from langchain_core.outputs import Generation
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass, is_pydantic_v1_subclass
from pydantic_core import from_json, to_json
from typing_extensions import is_typeddict

from focusdoc.chat.structured import AnswerType
from focusdoc.errors import IncompleteAnswerError
from langchain_focusdoc.errors import FocusIncompleteAnswerError, FocusRequestError, as_langchain_errors

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel, LanguageModelInput

    from focusdoc.chat.conversation import Chat
    from focusdoc.chat.json_grammar import JsonGrammar

_METHODS = ("json_schema", "json_mode", "function_calling")


def structured_output(
    llm: BaseChatModel, schema: Any, *, include_raw: bool, method: str, strict: bool | None
) -> Runnable[LanguageModelInput, Any]:
    """See `ChatFocusLLM.with_structured_output`."""
    if method not in _METHODS:
        raise FocusRequestError(f"method is {method!r}; choose one of {', '.join(_METHODS)}.")
    kind = _answer_type(schema)
    shown = schema if isinstance(schema, dict) or is_typeddict(schema) or is_basemodel_subclass(schema) else kind.schema
    bound: Runnable[LanguageModelInput, Any] = llm.bind(
        response_format={"type": "json_schema", "json_schema": {"schema": kind.schema}},
        ls_structured_output_format={"kwargs": {"method": method, "strict": strict}, "schema": shown},
    )
    parser = AnswerParser(kind=kind)
    if not include_raw:
        parsing: Runnable[LanguageModelInput, Any] = bound | parser
        return parsing
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
    failed: Runnable[Any, Any] = RunnablePassthrough.assign(parsed=lambda _: None)
    chain: Runnable[LanguageModelInput, Any] = RunnableMap(raw=bound) | parsed.with_fallbacks(
        [failed], exception_key="parsing_error"
    )
    return chain


class AnswerParser(BaseCumulativeTransformOutputParser[Any]):
    """Parses answers to objects of an `AnswerType`; a stream yields every partial object."""

    kind: AnswerType

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """The object of an answer; None if a stream has none yet.

        Raises:
            FocusIncompleteAnswerError: the answer ended before its JSON did. OutputParserException: it does not match
                the schema.
        """
        text = result[0].text
        message = getattr(result[0], "message", None)
        reason = getattr(message, "response_metadata", {}).get("finish_reason")  # only in a stream's last piece
        try:
            if partial and reason is None:
                return self.kind.read(to_json(from_json(text, allow_partial="trailing-strings")).decode())
            tokens = (getattr(message, "usage_metadata", None) or {}).get("output_tokens", 0)
            return self.kind.parse(text, reason or "stop", tokens, limit="max_tokens")
        except IncompleteAnswerError as error:
            raise FocusIncompleteAnswerError(str(error), llm_output=text) from error
        except ValueError as error:
            if partial and reason is None:
                return None
            raise OutputParserException(f"The answer does not fit its schema: {error}", llm_output=text) from error

    def parse(self, text: str) -> Any:
        """The object of a complete answer."""
        return self.parse_result([Generation(text=text)])


def _answer_type(schema: Any) -> AnswerType:
    """The answer type of a `schema`: objects of a class, or plain values for other schemas.

    Raises:
        FocusRequestError: it is not a schema, or it is empty.
    """
    by_langchain = isinstance(schema, dict | BaseTool) or is_typeddict(schema) or inspect.isroutine(schema)
    older = isinstance(schema, type) and is_pydantic_v1_subclass(schema)
    if not by_langchain and not older:
        with as_langchain_errors():
            return AnswerType.of(schema)
    try:
        json_schema = convert_to_json_schema(schema)
    except (TypeError, ValueError) as error:
        raise FocusRequestError(f"This schema cannot be used: {error}") from error
    if isinstance(schema, dict) and "title" in schema and "name" not in schema:
        json_schema = schema  # LangChain keeps only the title of a JSON schema that is not an object
    if not json_schema.keys() - {"title", "description"}:
        raise FocusRequestError(f"This schema cannot be used: {schema!r} does not describe the answer.")
    return AnswerType(json_schema, schema.parse_raw) if older else AnswerType(json_schema)


def grammar_of(chat: Chat, response_format: Any) -> JsonGrammar:
    """The grammar of a `response_format` as with other providers: a JSON schema, or any JSON object.

    Raises:
        FocusRequestError: it is neither.
    """
    from focusdoc.chat.json_grammar import ANY_OBJECT

    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind == "json_object":
        return chat.grammar(ANY_OBJECT)
    schema = response_format.get("json_schema", {}).get("schema") if kind == "json_schema" else None
    if not isinstance(schema, dict):
        raise FocusRequestError(
            f"response_format is {response_format!r}; use {{'type': 'json_object'}}, or "
            "{'type': 'json_schema', 'json_schema': {'schema': ...}}."
        )
    return chat.grammar(schema)
