"""A LangChain chat model as the reader, which answers from the passages that the base model finds."""

from __future__ import annotations

from collections.abc import Generator

from langchain_core.messages.ai import AIMessageChunk, UsageMetadata, add_usage

from focusdoc.readers.objects import Ended, ObjectReader
from focusdoc.readers.reader import Messages

#: The providers' names of the finish reason, and their values for a truncated answer.
_REASONS = ("finish_reason", "stop_reason", "done_reason")
_TOO_LONG = frozenset({"length", "max_tokens", "MAX_TOKENS"})


class LangChainReader(ObjectReader):
    """Generates answers with the chat model's `stream`."""

    def __repr__(self) -> str:
        # The key of LangChain's caches: the settings, without secrets.
        return f"{type(self).__name__}({type(self.model).__name__}, {self.model._get_llm_string()})"

    def context_window(self) -> int | None:
        """The context window in the model's profile."""
        window: int | None = (getattr(self.model, "profile", None) or {}).get("max_input_tokens")
        return window

    def pieces(self, messages: Messages, stop: tuple[str, ...]) -> Generator[str, None, Ended]:
        """See `ObjectReader.pieces`."""
        usage: UsageMetadata | None = None
        too_long = False
        for chunk in self.model.stream(list(messages), stop=list(stop) or None):
            if text := str(chunk.text):
                yield text
            if isinstance(chunk, AIMessageChunk) and chunk.usage_metadata:
                usage = add_usage(usage, chunk.usage_metadata)
            too_long = too_long or any(chunk.response_metadata.get(name) in _TOO_LONG for name in _REASONS)
        tokens = (usage["input_tokens"], usage["output_tokens"]) if usage else (None, None)
        return Ended("length" if too_long else "stop", *tokens)
