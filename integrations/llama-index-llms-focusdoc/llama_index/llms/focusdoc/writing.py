"""A LlamaIndex LLM as the reader, which answers from the passages that the base model finds."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from llama_index.core.base.llms.types import ChatMessage

from focusdoc.readers.objects import Ended, ObjectReader
from focusdoc.readers.reader import Messages


class LlamaIndexReader(ObjectReader):
    """Generates answers with the LLM's `stream_chat`."""

    def context_window(self) -> int | None:
        """The context window in the LLM's metadata."""
        window: int = self.model.metadata.context_window
        return window

    def pieces(self, messages: Messages, stop: tuple[str, ...]) -> Generator[str, None, Ended]:
        """See `ObjectReader.pieces`; stop strings are not passed, since every LLM has its own name for them."""
        usage: Any = None
        for response in self.model.stream_chat([ChatMessage(role=role, content=text) for role, text in messages]):
            if response.delta:
                yield response.delta
            raw = response.raw
            usage = (raw.get("usage") if isinstance(raw, dict) else getattr(raw, "usage", None)) or usage
        return Ended("stop", _number(usage, "prompt_tokens"), _number(usage, "completion_tokens"))


def _number(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else getattr(usage, name, None)
    return value if isinstance(value, int) else None
