"""LlamaIndex messages as focusdoc's, and answers as LlamaIndex responses."""

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
#: Blocks that are no part of what was said: a model's reasoning, and marks for the caches of services.
_NOT_SAID = frozenset({"thinking", "cache"})


def to_messages(messages: Sequence[ChatMessage]) -> list[Message]:
    """The same conversation; each text block is a part of its own, and a model's reasoning is left out.

    Raises:
        ValueError: a role or a content that this model does not know (tools, images, audio, files).
    """
    told = ((_role_of(message), _parts_of(message)) for message in messages)
    return [Message(role, parts) for role, parts in told if parts]  # none where all was reasoning


def _role_of(message: ChatMessage) -> str:
    calls = message.additional_kwargs.get("tool_calls") or any(_kind(block) == "tool_call" for block in message.blocks)
    if message.role not in _ROLES or calls:
        raise ValueError(
            f"FocusLLM cannot call tools, and this conversation holds a message of the role "
            f"{message.role.value!r} that belongs to a tool call; leave such messages out."
        )
    return _ROLES[message.role]


def _parts_of(message: ChatMessage) -> list[str]:
    parts = []
    for block in message.blocks:
        if _kind(block) in _NOT_SAID:
            continue
        if not isinstance(block, TextBlock):
            raise ValueError(
                f"FocusLLM reads text alone, and a message holds a {type(block).__name__}; for a PDF or a text file "
                "use FocusReader or FocusQueryEngine.from_files."
            )
        parts.append(block.text)
    return parts


def _kind(block: Any) -> str:
    return str(getattr(block, "block_type", ""))


def raw_of(answer: Answer, engine: FocusEngine) -> dict[str, Any]:
    """What `response.raw` holds: usage under the names that LlamaIndex's handlers look for, timings in seconds."""
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
    """What `response.additional_kwargs` holds: the passages behind the answer, the most looked at first."""
    return {"sources": [asdict(source) for source in answer.sources]}
