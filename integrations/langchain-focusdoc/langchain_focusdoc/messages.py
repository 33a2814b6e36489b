"""LangChain messages as focusdoc's, and answers as LangChain messages' metadata."""

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
#: Blocks that a model wrote for itself, which no model is shown again.
_THOUGHTS = frozenset({"reasoning", "reasoning_content", "thinking", "redacted_thinking"})


def to_messages(messages: Sequence[BaseMessage]) -> list[Message]:
    """The same conversation; each text block is a part of its own, and a model's reasoning is left out.

    Raises:
        FocusRequestError: a role or a content that this model does not know (tools, images, audio, files).
    """
    told = ((_role_of(message), _parts_of(message)) for message in messages)
    return [Message(role, parts) for role, parts in told if parts]  # none where all was reasoning


def _role_of(message: BaseMessage) -> str:
    role = message.role if isinstance(message, ChatMessage) else message.type
    role = role.removesuffix("MessageChunk").lower()
    if role not in _ROLES or (isinstance(message, AIMessage) and (message.tool_calls or message.invalid_tool_calls)):
        raise FocusRequestError(
            f"ChatFocusLLM cannot call tools, and this conversation holds a message of the role {role!r} that it "
            f"has no place for; it knows {', '.join(sorted(set(_ROLES)))}, without tool calls."
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
                f"ChatFocusLLM reads text alone, and a message holds content of the type {block.get('type')!r}; for "
                "a PDF or a text file use FocusDocumentLoader."
            )
    return parts


def usage_of(answer: Answer) -> UsageMetadata:
    """Tokens of the answer; ``cache_read`` of them were read for an earlier call, ``cache_creation`` for this one."""
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
    """What `response_metadata` holds: the model, why it stopped, timings in seconds, the passages looked at."""
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
