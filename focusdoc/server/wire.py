"""What goes over the wire: requests as clients of OpenAI's API write them, and answers as they read them."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from focusdoc.chat.messages import Message
from focusdoc.decoding.answer import Answer, Source
from focusdoc.decoding.prompt import Options
from focusdoc.errors import ConfigError
from focusdoc.server.files import StoredFile
from focusdoc.server.library import Reading

#: Characters of all texts of a request, at most.
MAX_CHARACTERS = 20_000_000


class _Request(BaseModel):
    """Fields that we do not know are ignored, as clients send many."""

    model_config = ConfigDict(extra="ignore")


class FileRef(_Request):
    """A file of a message: an uploaded one, or its bytes as a data URL."""

    file_id: str | None = None
    file_data: str | None = None
    filename: str | None = None


class Part(_Request):
    """A part of a message's content."""

    type: str
    text: str | None = None
    file: FileRef | None = None


class ChatMessage(_Request):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None


class StreamOptions(_Request):
    """How a stream ends."""

    include_usage: bool = False


class JsonSchema(_Request):
    """A schema that the answer has to fit."""

    # `schema` would hide a method of pydantic's.
    schema_: dict[str, Any] = Field(alias="schema", default_factory=lambda: {"type": "object"})


class ResponseFormat(_Request):
    """What the answer has to be."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None


class ChatRequest(_Request):
    """``POST /v1/chat/completions``."""

    model: str = ""
    messages: list[ChatMessage] = Field(min_length=1, max_length=2000)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=100_000)
    max_completion_tokens: int | None = Field(None, ge=1, le=100_000)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    stop: str | list[str] | None = None
    seed: int | None = None
    n: Literal[1] | None = None
    response_format: ResponseFormat | None = None

    def options(self) -> Options:
        """As the engine takes them."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        options: Options = {"max_new_tokens": self.max_completion_tokens or self.max_tokens or 256, "stop": tuple(stop)}
        if self.temperature is not None:
            options["temperature"] = self.temperature
        if self.top_p is not None:
            options["top_p"] = self.top_p
        if self.seed is not None:
            options["seed"] = self.seed
        return options


@dataclass(frozen=True, slots=True)
class Inline:
    """A file that came inside a message."""

    data: bytes
    filename: str


def conversation(request: ChatRequest) -> tuple[list[Message], list[str | Inline]]:
    """The messages of a request, and the files that they name, by id or inline, in order.

    Raises:
        ConfigError: a part is of another kind, or the texts are too long.
    """
    messages: list[Message] = []
    files: list[str | Inline] = []
    for message in request.messages:
        texts: list[str] = []
        for part in (
            [Part(type="text", text=message.content)] if isinstance(message.content, str) else message.content or []
        ):
            if part.type == "text":
                texts.append(part.text or "")
            elif part.type == "file" and part.file is not None:
                files.append(_file(part.file))
            else:
                raise ConfigError(f"A message holds a part of type {part.type!r}; send text and file parts.")
        role = "system" if message.role == "developer" else message.role
        if texts:
            messages.append(Message(role, texts))
    if sum(len(part) for message in messages for part in message.parts) > MAX_CHARACTERS:
        raise ConfigError(f"The messages have more than {MAX_CHARACTERS:,} characters; upload long texts as files.")
    return messages, files


def _file(ref: FileRef) -> str | Inline:
    if ref.file_id:
        return ref.file_id
    if not ref.file_data:
        raise ConfigError("A file part has neither file_id nor file_data; give one of them.")
    encoded = ref.file_data.partition("base64,")[2] if ref.file_data.startswith("data:") else ref.file_data
    try:
        return Inline(base64.b64decode(encoded, validate=True), ref.filename or "file")
    except (binascii.Error, ValueError) as error:
        raise ConfigError("file_data is no base64; send a data URL such as data:application/pdf;base64,...") from error


def file_object(file: StoredFile, reading: Reading) -> dict[str, Any]:
    """OpenAI's file object, and beside its fields how many tokens are read of all."""
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


def citations(answer: Answer, files: dict[str, StoredFile], base_url: str) -> list[dict[str, Any]]:
    """A citation for every source of an answer, each of the whole text.

    Args:
        files: by the names of their documents.
    """
    return [
        _citation(source, files, base_url, len(answer.text)) for source in answer.sources if source.document in files
    ]


def _citation(source: Source, files: dict[str, StoredFile], base_url: str, length: int) -> dict[str, Any]:
    file = files[source.document]
    citation = {
        "url": f"{base_url}v1/files/{file.id}/content#page={source.page}",
        "title": f"{file.filename}, page {source.page_label or source.page}",
        "start_index": 0,
        "end_index": length,
        "file_id": file.id,
        "page": source.page,
        "quote": source.text,
        "score": round(source.score, 4),
    }
    return {"type": "url_citation", "url_citation": citation}


def usage(answer: Answer) -> dict[str, Any]:
    """Tokens as OpenAI counts them: those of documents are prompt tokens, and cached where they were known."""
    used = answer.usage
    prompt = used.document_tokens + (used.reader_tokens or used.prompt_tokens + used.quoted_tokens)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": used.completion_tokens,
        "total_tokens": prompt + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": max(0, used.document_tokens - used.encoded_tokens)},
    }


def finish_reason(answer: Answer) -> str:
    """As OpenAI names it."""
    return "length" if answer.finish_reason == "length" else "stop"


def completion(name: str, model: str, answer: Answer, cited: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A chat completion."""
    message = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": list(cited)}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(answer)}
    facts = {"found": answer.found, "confidence": answer.confidence}
    head = {"id": name, "object": "chat.completion", "created": int(time.time()), "model": model}
    return {**head, "choices": [choice], "usage": usage(answer), "focusdoc": facts}


class Chunks:
    """The chunks of a streamed chat completion."""

    def __init__(self, name: str, model: str) -> None:
        self._head = {"id": name, "object": "chat.completion.chunk", "created": int(time.time()), "model": model}

    def text(self, piece: str, *, first: bool) -> dict[str, Any]:
        """A piece of the answer."""
        return self._chunk({"role": "assistant", "content": piece} if first else {"content": piece}, None)

    def end(self, answer: Answer, cited: Sequence[dict[str, Any]], *, with_usage: bool) -> Iterator[dict[str, Any]]:
        """The last chunks: citations, and tokens where they are wanted."""
        yield self._chunk({"annotations": list(cited)}, finish_reason(answer))
        if with_usage:
            yield {**self._head, "choices": [], "usage": usage(answer)}

    def _chunk(self, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._head, "choices": [choice]}
