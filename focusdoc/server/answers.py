"""Answers for requests: their turn, their documents, and their text as it comes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from focusdoc.chat.messages import Message
from focusdoc.chat.threads import run_in_thread, stream_in_thread
from focusdoc.decoding.answer import TextPiece
from focusdoc.decoding.prompt import Options
from focusdoc.documents import Document, load
from focusdoc.server.files import StoredFile
from focusdoc.server.library import Library
from focusdoc.server.metrics import Metrics
from focusdoc.server.refusals import BusyError


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """What a server allows.

    Attributes:
        keys: API keys, each of which sees its own files only; none for no key at all.
        max_concurrent: answers that are written at once.
        max_waiting: answers that may wait for their turn; more are refused with 429.
        max_json_bytes: of a request that is no upload.
    """

    keys: tuple[str, ...] = ()
    max_concurrent: int = 4
    max_waiting: int = 32
    max_json_bytes: int = 64 << 20


class Turns:
    """A bounded queue for answers."""

    def __init__(self, settings: ServerSettings) -> None:
        self._slots = asyncio.Semaphore(settings.max_concurrent)
        self._most = settings.max_waiting
        self.waiting = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Hold a slot.

        Raises:
            BusyError: too many wait.
        """
        if self._slots.locked() and self.waiting >= self._most:
            raise BusyError(f"{self.waiting} questions wait already; try again in a few seconds.")
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._slots.release()


@dataclass(frozen=True, slots=True)
class Inline:
    """A file that came inside a message."""

    data: bytes
    filename: str


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a request asks.

    Attributes:
        files: uploaded ones that it is about, and `inline` those that came with it.
    """

    messages: Sequence[Message]
    files: Sequence[StoredFile]
    inline: Sequence[Inline]
    options: Options


async def answer(
    question: Question, library: Library, turns: Turns, metrics: Metrics
) -> AsyncGenerator[TextPiece, None]:
    """The answer's text as it comes; the last piece carries the whole `Answer`.

    It waits for its files to be read before it takes a turn, so that nobody else waits for them.
    """
    chat = library.chat

    def opened(cancel: threading.Event) -> list[Document]:
        inline = [load(each.data, name=each.filename) for each in question.inline]
        return [*(library.document(file, cancel) for file in question.files), *inline]

    documents = await run_in_thread(opened)
    async with turns.turn():
        begun: float | None = time.perf_counter()

        def pieces(cancel: threading.Event) -> Generator[TextPiece, None, None]:
            options = question.options.copy()
            options["cancel"] = cancel
            return chat.stream(question.messages, documents, **options)

        async with aclosing(await stream_in_thread(pieces)) as stream:
            async for piece in stream:
                if begun is not None:
                    metrics.first_token(time.perf_counter() - begun)
                    begun = None
                if piece.answer is not None:
                    metrics.answered(piece.answer)
                yield piece
