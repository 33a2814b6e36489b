"""Converting LlamaIndex messages to focusdoc's, and answers to LlamaIndex responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock

from focusdoc.chat.messages import Message

if TYPE_CHECKING:
    from focusdoc.decoding.answer import Answer
    from focusdoc.engine import FocusEngine

_ROLES = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
}
#: Blocks that are not part of the conversation: a model's reasoning, and cache markers.
_SKIPPED = frozenset({"thinking", "cache"})


def to_messages(messages: Sequence[ChatMessage]) -> list[Message]:
    """Convert a conversation; each text block becomes a part, and reasoning is skipped.

    Raises:
        ValueError: a role or content is not supported (tools, images, audio, files).
    """
    converted = ((_role_of(message), _parts_of(message)) for message in messages)
    return [Message(role, parts) for role, parts in converted if parts]  # without messages of only reasoning


def _role_of(message: ChatMessage) -> str:
    calls = message.additional_kwargs.get("tool_calls") or any(_kind(block) == "tool_call" for block in message.blocks)
    if message.role not in _ROLES or calls:
        raise ValueError(
            f"FocusLLM cannot call tools, and this conversation has a message of the role "
            f"{message.role.value!r} that belongs to a tool call; leave such messages out."
        )
    return _ROLES[message.role]


def _parts_of(message: ChatMessage) -> list[str]:
    parts = []
    for block in message.blocks:
        if _kind(block) in _SKIPPED:
            continue
        if not isinstance(block, TextBlock):
            raise ValueError(
                f"FocusLLM accepts only text, and a message has a {type(block).__name__}; for a PDF or a text file "
                "use FocusReader or FocusQueryEngine.from_files."
            )
        parts.append(block.text)
    return parts


def _kind(block: Any) -> str:
    return str(getattr(block, "block_type", ""))


def raw_of(answer: Answer, engine: FocusEngine) -> dict[str, Any]:
    """The `response.raw`: usage with the keys that LlamaIndex's handlers expect, timings in seconds, and more."""
    usage = answer.usage
    prompt_tokens = usage.document_tokens + usage.prompt_tokens + usage.reader_tokens
    return {
        "model": engine.base.name,
        "reader": engine.reader and engine.reader.name,
        "found": answer.found,
        "confidence": answer.confidence,
        "steps": answer.steps,
        "finish_reason": answer.finish_reason,
        "warnings": list(answer.warnings),
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": prompt_tokens + usage.completion_tokens,
            "document_tokens": usage.document_tokens,
            "encoded_tokens": usage.encoded_tokens,
            "cached_tokens": usage.document_tokens - usage.encoded_tokens,
            "reader_tokens": usage.reader_tokens,
        },
        "timings": {**asdict(answer.timings), "total": answer.timings.total},
    }


def sources_of(answer: Answer) -> dict[str, Any]:
    """The `response.additional_kwargs`: the sources of the answer, ranked."""
    return {"sources": [asdict(source) for source in answer.sources]}
