"""The wire format: requests and answers of OpenAI's API."""

from __future__ import annotations

import base64
import binascii
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from focusdoc.chat.messages import Message
from focusdoc.config import GenerationConfig
from focusdoc.decoding.answer import Answer, Source, TextPiece
from focusdoc.decoding.prompt import Options
from focusdoc.errors import ConfigError
from focusdoc.server.files import StoredFile
from focusdoc.server.library import Reading

#: Most characters of all texts of a conversation.
MAX_CHARACTERS = 20_000_000


class Request(BaseModel):
    """A request or a part of one; ignores unknown fields, since clients send many."""

    model_config = ConfigDict(extra="ignore")


class Asked(Request):
    """What a request of either API may set."""

    model: str = ""
    stream: bool = False
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)

    def sampling(self) -> Options:
        """The engine's options for `temperature` and `top_p`."""
        return {
            "temperature": self.temperature or GenerationConfig.temperature,
            "top_p": self.top_p or GenerationConfig.top_p,
        }


class FileRef(Request):
    """A file in a message: the id of an uploaded file, or its bytes as a data URL."""

    file_id: str | None = None
    file_data: str | None = None
    filename: str | None = None


class Part(FileRef):
    """A part of a message's content; files are in `file` for chat completions, in the part itself for responses."""

    type: str
    text: str | None = None
    file: FileRef | None = None


class ChatMessage(Request):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None


class StreamOptions(Request):
    """Options of a stream."""

    include_usage: bool = False


class JsonSchema(Request):
    """The JSON schema of the answer."""

    # `schema` would shadow a method of pydantic's.
    schema_: dict[str, Any] = Field(alias="schema", default_factory=lambda: {"type": "object"})


class ResponseFormat(Request):
    """The format of the answer."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None


class ChatRequest(Asked):
    """``POST /v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=2000)
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=100_000)
    max_completion_tokens: int | None = Field(None, ge=1, le=100_000)
    stop: str | list[str] | None = None
    seed: int | None = None
    n: Literal[1] | None = None
    response_format: ResponseFormat | None = None

    def options(self) -> Options:
        """The options for the engine."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        most = self.max_completion_tokens or self.max_tokens or 256
        return {**self.sampling(), "max_new_tokens": most, "stop": tuple(stop), "seed": self.seed}


@dataclass(frozen=True, slots=True)
class Inline:
    """A file sent inside a message."""

    data: bytes
    filename: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """The messages of a request, and their files in order, by id or inline."""

    messages: tuple[Message, ...]
    file_ids: tuple[str, ...] = ()
    inline: tuple[Inline, ...] = ()

    def with_answer(self, text: str) -> Conversation:
        """The conversation with an answer appended."""
        return replace(self, messages=(*self.messages, Message("assistant", text)))


def conversation(messages: Sequence[ChatMessage], before: Conversation | None = None) -> Conversation:
    """Parse messages, and append them to an earlier conversation.

    Raises:
        ConfigError: a part is invalid or of an unknown type, or the texts are too long.
    """
    found = list(before.messages) if before else []
    file_ids, inline = (list(before.file_ids), list(before.inline)) if before else ([], [])
    for message in messages:
        texts: list[str] = []
        content = message.content or []
        for part in [Part(type="text", text=content)] if isinstance(content, str) else content:
            if part.type in ("text", "input_text", "output_text"):
                texts.append(part.text or "")
                continue
            file = part.file if part.type == "file" else part if part.type == "input_file" else None
            if file is None:
                raise ConfigError(f"A message has a part of type {part.type!r}; send only text and file parts.")
            if file.file_id:
                file_ids.append(file.file_id)
            else:
                inline.append(_inline(file))
        if texts:
            found.append(Message("system" if message.role == "developer" else message.role, texts))
    if sum(len(part) for message in found for part in message.parts) > MAX_CHARACTERS:
        raise ConfigError(f"The messages have more than {MAX_CHARACTERS:,} characters; upload long texts as files.")
    return Conversation(tuple(found), tuple(file_ids), tuple(inline))


def _inline(ref: FileRef) -> Inline:
    if not ref.file_data:
        raise ConfigError("A file part has neither file_id nor file_data; give one of them.")
    encoded = ref.file_data.partition("base64,")[2] if ref.file_data.startswith("data:") else ref.file_data
    try:
        return Inline(base64.b64decode(encoded, validate=True), ref.filename or "file")
    except (binascii.Error, ValueError) as error:
        raise ConfigError("file_data is not base64; send a data URL such as data:application/pdf;base64,...") from error


def file_object(file: StoredFile, reading: Reading) -> dict[str, Any]:
    """OpenAI's file object, with the progress as `tokens_read` and `tokens`."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.num_bytes,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": reading.status,
        "status_details": reading.details,
        "tokens_read": reading.done,
        "tokens": reading.total,
    }


def cited(answer: Answer, files: Sequence[StoredFile]) -> Iterator[tuple[Source, StoredFile]]:
    """The sources of an answer in uploaded files, each with its file."""
    by_name = {file.document_name: file for file in files}
    yield from ((source, by_name[source.document]) for source in answer.sources if source.document in by_name)


def usage(answer: Answer) -> dict[str, Any]:
    """Usage in OpenAI's format: document tokens are prompt tokens, and cached if they were in memory."""
    used = answer.usage
    prompt = used.document_tokens + (used.reader_tokens or used.prompt_tokens + used.quoted_tokens)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": used.completion_tokens,
        "total_tokens": prompt + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": max(0, used.document_tokens - used.encoded_tokens)},
    }


class Completion:
    """A chat completion, complete or in chunks.

    Args:
        base_url: the server's URL as the client sees it.
        page_shares: returns each page's share of an answer's attention mass, by file id.
    """

    def __init__(
        self, model: str, files: Sequence[StoredFile], base_url: str, page_shares: Callable[[Answer], dict[str, Any]]
    ) -> None:
        self._files, self._base_url, self._page_shares = files, base_url, page_shares
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The complete chat completion."""
        message = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": self._cited(answer)}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(answer)}
        head = {**self._head, "object": "chat.completion"}
        return {**head, "choices": [choice], "usage": usage(answer), "focusdoc": self._found(answer)}

    async def chunks(
        self, pieces: AsyncGenerator[TextPiece, None], *, with_usage: bool
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The stream's chunks: the last one has the citations; with `with_usage`, the usage follows."""
        head = {**self._head, "object": "chat.completion.chunk"}
        delta: dict[str, Any] = {"role": "assistant"}
        async with aclosing(pieces):
            async for piece in pieces:
                if piece:
                    yield {**head, "choices": [_choice({**delta, "content": str(piece)}, None)]}
                    delta = {}
                if (answer := piece.answer) is not None:
                    last = _choice({**delta, "annotations": self._cited(answer)}, _finish_reason(answer))
                    yield {**head, "choices": [last], "focusdoc": self._found(answer)}
                    if with_usage:
                        yield {**head, "choices": [], "usage": usage(answer)}

    def _found(self, answer: Answer) -> dict[str, Any]:
        return {"found": answer.found, "confidence": answer.confidence, "page_shares": self._page_shares(answer)}

    def _cited(self, answer: Answer) -> list[dict[str, Any]]:
        return [
            {
                "type": "url_citation",
                "url_citation": {
                    "url": f"{self._base_url}v1/files/{file.id}/content#page={source.page}",
                    "title": f"{file.filename}, page {source.page_label or source.page}",
                    "start_index": 0,
                    "end_index": len(answer.text),
                    "file_id": file.id,
                    "page": source.page,
                    "quote": source.text,
                    "score": round(source.score, 4),
                },
            }
            for source, file in cited(answer, self._files)
        ]


def _choice(delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


def _finish_reason(answer: Answer) -> str:
    return "length" if answer.finish_reason == "length" else "stop"
