"""focusdoc: ask questions of documents far longer than a language model's context, with the model you already have.

It implements FocusLLM (arXiv 2408.11745). Everything public is importable from here and loaded on first use, so
``import focusdoc`` itself is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from focusdoc.chat.conversation import Chat
    from focusdoc.chat.messages import Message
    from focusdoc.config import FocusConfig, GenerationConfig
    from focusdoc.decoding.answer import Answer, Generation, Source, TextPiece, Timings, Usage
    from focusdoc.documents import Document, LoadLimits, Page, load, load_text
    from focusdoc.engine import FocusEngine
    from focusdoc.errors import FocusdocError
    from focusdoc.memory.chunk_memory import DocumentMemory
    from focusdoc.memory.plan import MemoryPlan

__version__ = "0.1.0"

_HOMES = {
    "Answer": "focusdoc.decoding.answer",
    "Chat": "focusdoc.chat.conversation",
    "Document": "focusdoc.documents",
    "DocumentMemory": "focusdoc.memory.chunk_memory",
    "FocusConfig": "focusdoc.config",
    "FocusEngine": "focusdoc.engine",
    "FocusdocError": "focusdoc.errors",
    "Generation": "focusdoc.decoding.answer",
    "GenerationConfig": "focusdoc.config",
    "LoadLimits": "focusdoc.documents",
    "MemoryPlan": "focusdoc.memory.plan",
    "Message": "focusdoc.chat.messages",
    "Page": "focusdoc.documents",
    "Source": "focusdoc.decoding.answer",
    "TextPiece": "focusdoc.decoding.answer",
    "Timings": "focusdoc.decoding.answer",
    "Usage": "focusdoc.decoding.answer",
    "load": "focusdoc.documents",
    "load_text": "focusdoc.documents",
}

__all__ = [
    "Answer",
    "Chat",
    "Document",
    "DocumentMemory",
    "FocusConfig",
    "FocusEngine",
    "FocusdocError",
    "Generation",
    "GenerationConfig",
    "LoadLimits",
    "MemoryPlan",
    "Message",
    "Page",
    "Source",
    "TextPiece",
    "Timings",
    "Usage",
    "load",
    "load_text",
]


if not TYPE_CHECKING:  # or a type checker would take every misspelt name for an attribute

    def __getattr__(name: str) -> Any:
        if name in _HOMES:
            return getattr(importlib.import_module(_HOMES[name]), name)
        raise AttributeError(f"module 'focusdoc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
