"""A chat model of LangChain as the reader: it writes the answers from the passages that the base model finds."""

from __future__ import annotations

from collections.abc import Generator

from langchain_core.messages.ai import AIMessageChunk, UsageMetadata, add_usage

from focusdoc.readers.objects import Ended, ObjectReader
from focusdoc.readers.reader import Messages

#: Under which names providers say why an answer ended, and what they call its being too long.
_REASONS = ("finish_reason", "stop_reason", "done_reason")
_TOO_LONG = frozenset({"length", "max_tokens", "MAX_TOKENS"})


class LangChainReader(ObjectReader):
    """Writes by the chat model's `stream`."""

    def __repr__(self) -> str:
        # As LangChain's own caches know the model: by its settings, without secrets.
        return f"{type(self).__name__}({type(self.model).__name__}, {self.model._get_llm_string()})"

    def context_window(self) -> int | None:
        """As the model's profile has it."""
        window: int | None = (getattr(self.model, "profile", None) or {}).get("max_input_tokens")
        return window

    def pieces(self, messages: Messages, stop: tuple[str, ...]) -> Generator[str, None, Ended]:
        """See `ObjectReader.pieces`."""
        usage: UsageMetadata | None = None
        too_long = False
        for chunk in self.model.stream(list(messages), stop=list(stop) or None):
            if text := str(chunk.text):
                yield text
            usage = add_usage(usage, chunk.usage_metadata) if isinstance(chunk, AIMessageChunk) else usage
            too_long = too_long or any(chunk.response_metadata.get(name) in _TOO_LONG for name in _REASONS)
        told = (usage["input_tokens"], usage["output_tokens"]) if usage else (None, None)
        return Ended("length" if too_long else "stop", *told)
