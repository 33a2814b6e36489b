"""Converting LangChain messages to focusdoc's, and answers to message metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata

from focusdoc.chat.messages import Message
from langchain_focusdoc.errors import FocusRequestError

if TYPE_CHECKING:
    from focusdoc.decoding.answer import Answer
    from focusdoc.engine import FocusEngine

_ROLES = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "ai": "assistant",
    "assistant": "assistant",
}
#: Blocks with a model's reasoning, which are not part of later prompts.
_THOUGHTS = frozenset({"reasoning", "reasoning_content", "thinking", "redacted_thinking"})


def to_messages(messages: Sequence[BaseMessage]) -> list[Message]:
    """Convert a conversation; each text block becomes a part, and reasoning is skipped.

    Raises:
        FocusRequestError: a role or content is not supported (tools, images, audio, files).
    """
    converted = ((_role_of(message), _parts_of(message)) for message in messages)
    return [Message(role, parts) for role, parts in converted if parts]  # without messages of only reasoning


def _role_of(message: BaseMessage) -> str:
    role = message.role if isinstance(message, ChatMessage) else message.type
    role = role.removesuffix("MessageChunk").lower()
    if role not in _ROLES or (isinstance(message, AIMessage) and (message.tool_calls or message.invalid_tool_calls)):
        raise FocusRequestError(
            f"ChatFocusLLM cannot call tools, and this conversation has a message of the role {role!r} that is not "
            f"supported; use {', '.join(sorted(set(_ROLES)))}, without tool calls."
        )
    return _ROLES[role]


def _parts_of(message: BaseMessage) -> list[str]:
    if isinstance(message.content, str):
        return [message.content]
    parts = []
    for block in message.content:
        if isinstance(block, str):
            parts.append(block)
        elif block.get("type") in _THOUGHTS:
            continue
        elif block.get("type") in ("text", "text-plain") and isinstance(block.get("text"), str):
            parts.append(block["text"])
        else:
            raise FocusRequestError(
                f"ChatFocusLLM accepts only text, and a message has content of the type {block.get('type')!r}; for a "
                "PDF or a text file use FocusDocumentLoader."
            )
    return parts


def usage_of(answer: Answer) -> UsageMetadata:
    """Token usage; ``cache_read`` input tokens had a memory, ``cache_creation`` ones were read for this call."""
    usage = answer.usage
    prompt_tokens = usage.document_tokens + usage.prompt_tokens + usage.reader_tokens
    return UsageMetadata(
        input_tokens=prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=prompt_tokens + usage.completion_tokens,
        input_token_details=InputTokenDetails(
            cache_read=usage.document_tokens - usage.encoded_tokens, cache_creation=usage.encoded_tokens
        ),
    )


def metadata_of(answer: Answer, engine: FocusEngine) -> dict[str, Any]:
    """The `response_metadata`: model, finish reason, timings in seconds, sources."""
    by_reader: dict[str, Any] = {}
    if engine.reader:
        by_reader = {
            "reader": engine.reader.name,
            "reader_tokens": answer.usage.reader_tokens,
            "found": answer.found,
            "confidence": answer.confidence,
            "steps": answer.steps,
        }
    return {
        "model_name": engine.base.name,
        **by_reader,
        "model_provider": "focusdoc",
        "finish_reason": answer.finish_reason,
        "timings": {**asdict(answer.timings), "total": answer.timings.total},
        "sources": [asdict(source) for source in answer.sources],
    }
