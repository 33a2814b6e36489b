"""Structured output: schemas as grammars for constrained decoding, and answers as objects."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass

from langchain_focusdoc.errors import FocusRequestError

if TYPE_CHECKING:
    from langchain_core.language_models import LanguageModelInput

    from focusdoc.chat.conversation import Chat
    from focusdoc.decoding.json_grammar import JsonGrammar
    from langchain_focusdoc.chat_models import ChatFocusLLM

_METHODS = ("json_schema", "json_mode", "function_calling")


def structured_output(
    llm: ChatFocusLLM, schema: dict[str, Any] | type, *, include_raw: bool, method: str, strict: bool | None
) -> Runnable[LanguageModelInput, Any]:
    """See `ChatFocusLLM.with_structured_output`."""
    if method not in _METHODS:
        raise FocusRequestError(f"method is {method!r}; choose one of {', '.join(_METHODS)}.")
    try:
        json_schema = convert_to_json_schema(schema)
    except (TypeError, ValueError) as error:
        raise FocusRequestError(f"This schema cannot be used: {error}") from error
    bound: Runnable[LanguageModelInput, Any] = llm.bind(
        response_format={"type": "json_schema", "json_schema": {"schema": json_schema}},
        ls_structured_output_format={"kwargs": {"method": method, "strict": strict}, "schema": schema},
    )
    parser: Any = JsonOutputParser()
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        parser = PydanticOutputParser(pydantic_object=schema)
    if not include_raw:
        parsing: Runnable[LanguageModelInput, Any] = bound | parser
        return parsing
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
    failed: Runnable[Any, Any] = RunnablePassthrough.assign(parsed=lambda _: None)
    chain: Runnable[LanguageModelInput, Any] = RunnableMap(raw=bound) | parsed.with_fallbacks(
        [failed], exception_key="parsing_error"
    )
    return chain


def grammar_of(chat: Chat, response_format: Any) -> JsonGrammar:
    """The grammar of a `response_format` as other providers know it: a JSON schema, or any JSON object.

    Raises:
        FocusRequestError: it is neither.
    """
    from focusdoc.decoding.json_grammar import ANY_OBJECT

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
