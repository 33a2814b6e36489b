"""The backend of the framework integrations and the server: an engine with a cache of memories."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Unpack

from focusdoc.chat.json_grammar import JsonGrammar, grammar_tokenizer
from focusdoc.chat.messages import Message, as_turns, encode_conversation
from focusdoc.chat.splitting import split_prompt
from focusdoc.chat.threads import ReadingCancelledError, TextLocks, last_answer, stopped_by
from focusdoc.decoding.answer import Answer, TextPiece
from focusdoc.decoding.prompt import (
    SYSTEM_PROMPT,
    Options,
    RenderQuoted,
    bos_prefix,
    encode_text,
    question_prompt,
    with_passages,
)
from focusdoc.documents import Document, cut_chunks, tokenize
from focusdoc.engine import FocusEngine
from focusdoc.errors import ConfigError, PromptTooLongError
from focusdoc.memory.chunk_memory import DocumentMemory
from focusdoc.memory.pool import MemoryPool
from focusdoc.memory.reading import Progress
from focusdoc.readers.reader import Messages, Reader

#: Tokens reserved for text of the chat template, such as its own system prompt.
_TEMPLATE_ROOM = 64


class Chat:
    """Answers conversations and questions of any length with one engine; thread-safe.

    A conversation that fits into the local window goes to the model alone. In a longer one the long texts go to the
    memory and their frame stays local (`focusdoc.chat.splitting`). Memories are found by the contents of the texts, so
    a second question reads nothing again. If the engine has a reader, the reader answers: a short conversation by
    itself, a longer one from its frame and the passages found for the last message.

    Args:
        engine: with a tokenizer.
        max_memory_bytes: limit for the memories of one call, and for those cached between calls; None for half of the
            RAM (of the GPU's memory if the model is on a GPU, or of the free memory of a cluster's hosts).

    Raises:
        ConfigError: the engine has no tokenizer, or `max_memory_bytes` is below 1.
    """

    def __init__(self, engine: FocusEngine, max_memory_bytes: int | None = None) -> None:
        if engine.base.tokenizer is None:
            raise ConfigError(f"{engine.base.name} has no tokenizer, which a chat needs; pass tokenizer=.")
        if max_memory_bytes is not None and max_memory_bytes < 1:
            raise ConfigError(f"max_memory_bytes is {max_memory_bytes}; it must be at least 1, or None.")
        self.engine = engine
        self.pool = MemoryPool(max_memory_bytes or engine.memory_bytes // 2)
        # Threads with the same document read it once.
        self._locks = TextLocks()

    def with_reader(self, reader: Reader | None) -> Chat:
        """The same chat and memories with another reader (None for the base model)."""
        other = Chat(self.engine.with_reader(reader), self.pool.max_bytes)
        other.pool, other._locks = self.pool, self._locks
        return other

    @cached_property
    def without_reader(self) -> Chat:
        """The same chat, answered by the base model."""
        return self if self.engine.reader is None else self.with_reader(None)

    @cached_property
    def identity(self) -> str:
        """A hash of all that determines answers besides a call's settings: weights, adapter, configuration, reader."""
        engine = self.engine
        adapter = None if engine.adapter is None else engine.adapter.digest()
        described = f"{engine.base.fingerprint} {engine.base.dtype} {adapter} {engine.config} {engine.reader!r}"
        return hashlib.sha256(described.encode()).hexdigest()

    @property
    def max_tokens(self) -> int:
        """Most document tokens of one call, limited by bytes and by the model's positions."""
        engine = self.engine
        by_bytes = self.pool.max_bytes // engine.base.kv_bytes_per_token
        if engine.config.candidate_positions == "shared":
            return by_bytes
        room = engine.base.context_length - engine.config.local_window
        return min(by_bytes, max(1, room) * engine.chunk_size)

    @property
    def context_window(self) -> int:
        """Most tokens of a prompt: documents in memory, and the local window."""
        return self.max_tokens + self.engine.config.local_window

    def count(self, text: str) -> int:
        """The number of tokens of `text`."""
        return len(self.encode(text))

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without special tokens."""
        with self.engine.base.tokenizer_lock:
            return encode_text(self.engine.base.tokenizer, text)

    def grammar(self, schema: Mapping[str, Any]) -> JsonGrammar:
        """The grammar of JSON answers with this schema: ``stream(..., grammar=chat.grammar(schema))``.

        Raises:
            ConfigError: the schema cannot be used, the grammar library is not installed, or the reader is not in this
                process.
        """
        return JsonGrammar(self._grammar_tokenizer, schema)

    @cached_property
    def _grammar_tokenizer(self) -> Any:
        return grammar_tokenizer(self.engine.writer)

    @cached_property
    def _per_message(self) -> int:
        """Tokens that the chat template adds to each message."""
        one = Message("user", "a")
        three = self._render([one, Message("assistant", "a"), one])
        return math.ceil((len(three) - len(self._render([one]))) / 2) - self.count("a")

    def read(
        self, document: Document, *, cancel: threading.Event | None = None, progress: Progress | None = None
    ) -> tuple[DocumentMemory, int]:
        """The memory of a document, and the number of tokens read for it (0 if cached).

        Args:
            progress: called with (tokens read, total tokens).

        Raises:
            PromptTooLongError: it is longer than `max_tokens`. Otherwise as `FocusEngine.read`.
        """
        self._check_size([document])
        return self._read(document, cancel, progress)

    def forget(self, text: str) -> None:
        """Remove the memory of a text, from RAM and disk; running answers that use it continue."""
        self.engine.forget(self.pool.forget(text) or Document.from_text(text))

    def _read(
        self, document: Document, cancel: threading.Event | None, progress: Progress | None = None
    ) -> tuple[DocumentMemory, int]:
        with self._locks.of(document.text, cancel):
            known = self.pool.find(document.text)
            if known is not None:
                if known.tokenized is not None and known.document is not document:  # with this one's name and pages
                    chunks = tuple(cut_chunks(known.tokenized, self.engine.chunk_size, document))
                    known = replace(known, document=document, chunks=chunks)
                return known, 0
            memory = self.engine.read(document, progress=stopped_by(cancel, progress))
            self.pool.keep(document.text, memory)
            return memory, memory.tokens_encoded

    def stream(
        self, messages: Sequence[Message], documents: Sequence[Document] = (), **options: Unpack[Options]
    ) -> Generator[TextPiece, None, None]:
        """Answer a conversation; yields text as it is generated, and the `Answer` with the last piece.

        Args:
            documents: what the conversation is about, besides long texts in the messages.
            options: see `FocusEngine.stream`. Cancelling stops reading as well.

        Raises:
            ConfigError, PromptTooLongError, AdapterError: before the first piece.
        """
        if not any(message.text.strip() for message in messages):
            raise ConfigError("The prompt is empty; write at least one message with text in it.")
        engine = self.engine
        split = split_prompt(
            messages,
            window=engine.config.local_window - _TEMPLATE_ROOM,
            count=self.count,
            known=self.pool.longest_prefix,
            per_message=self._per_message,
        )
        said = as_turns(split.local)
        if not split.documents and not documents:
            return engine.stream_prompt(None, self._render(split.local), said=said, **options)
        if all(message.role != "system" for message in split.local):
            split = replace(split, local=(Message("system", SYSTEM_PROMPT), *split.local))  # as in training
        pasted = [
            Document.from_text(text, {"name": f"prompt, text {number}"})
            for number, text in enumerate(split.documents, start=1)
        ]
        *before, last = split.local

        def quoted(text: str) -> list[int]:  # in front of the last message
            return self._render([*before, Message(last.role, (text, *last.parts))])

        return self._answer([*documents, *pasted], self._render(split.local), options, quoted, said)

    def continue_text(self, text: str, **options: Unpack[Options]) -> Generator[TextPiece, None, None]:
        """Continue `text` without a chat template; special tokens in it are plain text.

        The base model continues it even if there is a reader, since a reader needs a conversation.

        Raises:
            ConfigError: the text is empty. Otherwise as `stream`.
        """
        if not text.strip():
            raise ConfigError("The prompt is empty; write at least one word.")
        engine = self.engine
        window = engine.config.local_window
        split = split_prompt([Message("user", text)], window=window, count=self.count, known=self.pool.longest_prefix)
        with engine.base.tokenizer_lock:
            bos = bos_prefix(engine.base.tokenizer)
        local = "".join(part for message in split.local for part in message.parts)
        ids = bos + self.encode(local)
        if not split.documents:
            return engine.stream_prompt(None, ids, **options)
        documents = [Document.from_text(part, {"name": "prompt"}) for part in split.documents]
        return self._answer(documents, ids, options, lambda text: bos + self.encode(with_passages(local, text)))

    def ask(self, documents: Sequence[Document], question: str, **options: Unpack[Options]) -> Answer:
        """Answer a question about documents, each of which is read once."""
        return last_answer(self.stream_question(documents, question, **options))

    def stream_question(
        self, documents: Sequence[Document], question: str, **options: Unpack[Options]
    ) -> Generator[TextPiece, None, None]:
        """Like `ask`, but yields text as it is generated, and the `Answer` with the last piece.

        Raises:
            ConfigError, PromptTooLongError, AdapterError: before the first piece; as `FocusEngine.ask`.
        """
        if not documents:
            raise ConfigError("There is no document to ask about; pass at least one.")

        def render(text: str) -> list[int]:
            with self.engine.base.tokenizer_lock:
                return question_prompt(self.engine.base.tokenizer, question, quoted=text)

        return self._answer(documents, render(""), options, render, [("user", question)])

    def _answer(
        self,
        documents: Sequence[Document],
        prompt_ids: Sequence[int],
        options: Options,
        quoted: RenderQuoted,
        said: Messages | None = None,
    ) -> Generator[TextPiece, None, None]:
        """Read the documents, then answer; see `FocusEngine.stream_prompt`."""
        self.engine.check_prompt(prompt_ids, said, **options)
        self._check_size(documents)

        def answer() -> Generator[TextPiece, None, None]:
            try:
                found = [self._read(document, options.get("cancel")) for document in documents]
            except ReadingCancelledError:
                return
            encoded = sum(tokens for _, tokens in found)
            memories = [memory for memory, _ in found]
            for piece in self.engine.stream_prompt(memories, prompt_ids, quoted=quoted, said=said, **options):
                if (answer := piece.answer) is not None:
                    answer = replace(answer, usage=replace(answer.usage, encoded_tokens=encoded))
                yield TextPiece(piece, answer)

        return answer()

    def _render(self, messages: Sequence[Message]) -> list[int]:
        with self.engine.base.tokenizer_lock:
            return encode_conversation(self.engine.base.tokenizer, messages)

    def _check_size(self, documents: Sequence[Document]) -> None:
        """Raise PromptTooLongError if the documents do not fit into the memory, before any is read."""
        base = self.engine.base

        def size(text: str) -> int:
            if (known := self.pool.find(text)) is not None:
                return known.num_tokens
            with base.tokenizer_lock:
                return len(tokenize(base.tokenizer, text))

        total = sum(size(document.text) for document in documents)
        if total > self.max_tokens:
            raise PromptTooLongError(
                f"The documents have {total:,} tokens, but the memory holds {self.max_tokens:,} "
                f"({self.pool.max_bytes:,} bytes); use fewer documents, or raise max_memory_bytes."
            )
