"""OpenAI's Responses API: requests, responses, stream events, and the store of recent responses."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field

from focusdoc.chat.messages import Message
from focusdoc.decoding.answer import Answer, TextPiece
from focusdoc.decoding.prompt import Options
from focusdoc.server import wire
from focusdoc.server.files import StoredFile, UnknownFileError

#: Most responses stored for `previous_response_id`, and most bytes of their inline files; the oldest go first.
MAX_KEPT, MAX_KEPT_BYTES = 1000, 1 << 28


class ResponseRequest(wire.Asked):
    """``POST /v1/responses``."""

    input: str | list[wire.ChatMessage] = Field(min_length=1)
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool = True
    max_output_tokens: int | None = Field(None, ge=1, le=100_000)
    metadata: dict[str, str] | None = None

    def options(self) -> Options:
        """The options for the engine."""
        return {**self.sampling(), "max_new_tokens": self.max_output_tokens or 256}

    def conversation(self, before: KeptResponse | None) -> wire.Conversation:
        """The request's messages, after the conversation of the previous response."""
        given = [wire.ChatMessage(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        return wire.conversation(given, before.conversation if before is not None else None)

    def instructed(self, conversation: wire.Conversation) -> wire.Conversation:
        """The conversation preceded by the instructions, which apply to this response only."""
        if not self.instructions:
            return conversation
        return replace(conversation, messages=(Message("system", self.instructions), *conversation.messages))


class WrittenResponse:
    """A response, complete or as stream events; `files` are the uploaded ones that may be cited."""

    def __init__(self, asked: ResponseRequest, model: str, files: Sequence[StoredFile]) -> None:
        self.id = f"resp_{secrets.token_hex(16)}"
        self._item = f"msg_{secrets.token_hex(16)}"
        self._files = files
        self._head: dict[str, Any] = {
            "id": self.id,
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "error": None,
            "instructions": asked.instructions,
            "metadata": asked.metadata or {},
            "previous_response_id": asked.previous_response_id,
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "max_output_tokens": asked.max_output_tokens,
        }

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The complete response."""
        used = wire.usage(answer)
        cut = answer.finish_reason == "length"
        return {
            **self._head,
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [self._message(answer)],
            "usage": {
                "input_tokens": used["prompt_tokens"],
                "input_tokens_details": used["prompt_tokens_details"],
                "output_tokens": used["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": used["total_tokens"],
            },
            "focusdoc": {"found": answer.found, "confidence": answer.confidence},
        }

    async def events(
        self, pieces: AsyncGenerator[TextPiece, None], keep: Callable[[Answer], None]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The stream's events in OpenAI's order; `keep` is called with the answer before the last one."""
        number = -1

        def event(kind: str, **more: Any) -> dict[str, Any]:
            nonlocal number
            number += 1
            return {"type": f"response.{kind}", "sequence_number": number, **more}

        begun = {**self._head, "status": "in_progress", "output": [], "incomplete_details": None, "usage": None}
        item, place = {"item_id": self._item, "output_index": 0}, {"content_index": 0}
        yield event("created", response=begun)
        yield event("in_progress", response=begun)
        empty = {"id": self._item, "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        yield event("output_item.added", output_index=0, item=empty)
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield event("content_part.added", **item, **place, part=part)
        async with aclosing(pieces):
            async for piece in pieces:
                if piece:
                    yield event("output_text.delta", **item, **place, delta=str(piece), logprobs=[])
                if (answer := piece.answer) is not None:
                    message = self._message(answer)
                    (text,) = message["content"]
                    for index, citation in enumerate(text["annotations"]):
                        more = {"annotation_index": index, "annotation": citation}
                        yield event("output_text.annotation.added", **item, **place, **more)
                    yield event("output_text.done", **item, **place, text=answer.text, logprobs=[])
                    yield event("content_part.done", **item, **place, part=text)
                    yield event("output_item.done", output_index=0, item=message)
                    keep(answer)
                    whole = self.whole(answer)
                    yield event(whole["status"], response=whole)

    def _message(self, answer: Answer) -> dict[str, Any]:
        citations = [
            {
                "type": "file_citation",
                "file_id": file.id,
                "filename": file.filename,
                "index": len(answer.text),
                "page": source.page,
                "quote": source.text,
                "score": round(source.score, 4),
            }
            for source, file in wire.cited(answer, self._files)
        ]
        text = {"type": "output_text", "text": answer.text, "annotations": citations, "logprobs": []}
        return {"id": self._item, "type": "message", "role": "assistant", "status": "completed", "content": [text]}


@dataclass(frozen=True, slots=True)
class KeptResponse:
    """A stored response that another may continue."""

    owner: str
    conversation: wire.Conversation
    response: dict[str, Any]


class StoredResponses:
    """The last responses, in memory; a restart loses them."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, KeptResponse] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, response_id: str, owner: str, conversation: wire.Conversation, response: dict[str, Any]) -> None:
        """Store a response, with the conversation and its answer for a response that continues it."""
        with self._lock:
            self._kept[response_id] = KeptResponse(owner, conversation, response)
            while len(self._kept) > MAX_KEPT or (self._file_bytes() > MAX_KEPT_BYTES and len(self._kept) > 1):
                self._kept.popitem(last=False)

    def _file_bytes(self) -> int:
        """Bytes of all inline files; the turns of a conversation share theirs."""
        files = {id(file.data): len(file.data) for kept in self._kept.values() for file in kept.conversation.inline}
        return sum(files.values())

    def get(self, response_id: str, owner: str) -> KeptResponse:
        """The owner's response with this id; UnknownFileError if there is none, or it has another owner."""
        kept = self._kept.get(response_id)
        if kept is None or kept.owner != owner:
            raise UnknownFileError(f"There is no response {response_id!r}; it was not stored or has been dropped.")
        return kept

    def delete(self, response_id: str, owner: str) -> None:
        """Delete a response; raises as `get`."""
        self.get(response_id, owner)
        with self._lock:
            self._kept.pop(response_id, None)
