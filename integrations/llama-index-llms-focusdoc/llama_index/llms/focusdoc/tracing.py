"""Answering questions with the engine directly, reported to LlamaIndex's callbacks as LLM calls."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import CompletionResponse
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.settings import Settings
from llama_index.llms.focusdoc.base import FocusLLM
from llama_index.llms.focusdoc.messages import raw_of, sources_of

from focusdoc.documents import Document

if TYPE_CHECKING:
    from focusdoc.decoding.answer import TextPiece


def focus_llm(llm: Any | None) -> FocusLLM:
    """`llm`, or `Settings.llm`, or else the default model.

    Raises:
        ValueError: it is not a FocusLLM.
    """
    chosen = llm if llm is not None else Settings._llm or FocusLLM()
    if not isinstance(chosen, FocusLLM):
        raise ValueError(f"This needs a FocusLLM, not a {type(chosen).__name__}; pass llm=FocusLLM().")
    return chosen


def stream_question(
    llm: FocusLLM,
    callbacks: CallbackManager,
    documents: Sequence[Document],
    question: str,
    *,
    max_sources: int | None = None,
    cancel: threading.Event | None = None,
    **settings: Any,
) -> Generator[TextPiece, None, None]:
    """Answer a question about documents, within an LLM event with question, answer, tokens and timings.

    Args:
        max_sources: by default the LLM's.
        settings: of this call, see `FocusLLM.call_settings`.
    """
    payload: dict[str, Any] = {EventPayload.PROMPT: question, EventPayload.SERIALIZED: llm.to_payload()}
    with callbacks.event(CBEventType.LLM, payload=payload) as event:
        chat = llm.focus.get()
        for piece in chat.stream_question(
            documents,
            question,
            max_sources=llm.max_sources if max_sources is None else max_sources,
            cancel=cancel,
            **llm.call_settings(settings),
        ):
            if piece.answer is not None:
                response = CompletionResponse(
                    text=piece.answer.text,
                    raw=raw_of(piece.answer, chat.engine),
                    additional_kwargs=sources_of(piece.answer),
                )
                event.on_end(payload={EventPayload.PROMPT: question, EventPayload.COMPLETION: response})
            yield piece
