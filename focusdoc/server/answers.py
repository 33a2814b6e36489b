"""Answering requests: wait for the documents, queue for a slot, stream the text."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from focusdoc.chat.threads import run_in_thread, stream_in_thread
from focusdoc.decoding.answer import TextPiece
from focusdoc.decoding.prompt import Options
from focusdoc.documents import Document, load
from focusdoc.server.files import StoredFile
from focusdoc.server.library import Library
from focusdoc.server.metrics import Metrics
from focusdoc.server.refusals import BusyError
from focusdoc.server.wire import Conversation


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Access and limits of a server.

    Attributes:
        keys: API keys, each of which sees only its own files; empty if the server needs none.
        max_concurrent: most answers written at once.
        max_waiting: most queued answers; more are refused with 429.
        max_json_bytes: most bytes of a request other than an upload.
        origins: websites whose pages may use the API from a browser (CORS), such as "https://chat.example.org".
    """

    keys: tuple[str, ...] = ()
    max_concurrent: int = 4
    max_waiting: int = 32
    max_json_bytes: int = 64 << 20
    origins: tuple[str, ...] = ()


class Turns:
    """A bounded first-in, first-out queue of answers, each of which needs a slot and memory.

    Attributes:
        running: number of answers being written.
    """

    def __init__(self, settings: ServerSettings, free_bytes: Callable[[], int]) -> None:
        self._settings, self._free_bytes = settings, free_bytes
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.running = 0
        self._promised = 0

    @property
    def waiting(self) -> int:
        """Number of queued answers."""
        return len(self._queue)

    @property
    def is_full(self) -> bool:
        """Whether the next answer would be refused."""
        is_busy = self.waiting > 0 or self.running >= self._settings.max_concurrent
        return is_busy and self.waiting >= self._settings.max_waiting

    @asynccontextmanager
    async def turn(self, needed: int) -> AsyncIterator[None]:
        """Wait for a slot and `needed` bytes of memory, and hold them; raises BusyError if the queue is full."""
        if not self._queue and self._fits(needed):
            self._take(needed)
        elif self.waiting >= self._settings.max_waiting:
            raise BusyError(f"{len(self._queue)} questions are already waiting; try again in a few seconds.")
        else:
            await self._wait(needed)
        try:
            yield
        finally:
            self._give_back(needed)

    async def _wait(self, needed: int) -> None:
        entry = needed, asyncio.get_running_loop().create_future()
        self._queue.append(entry)
        try:
            await entry[1]
        except asyncio.CancelledError:
            if entry[1].cancelled():
                self._queue = deque(other for other in self._queue if other is not entry)
                self._call_next()  # a smaller one may fit
            else:  # it had just been called
                self._give_back(needed)
            raise

    def _fits(self, needed: int) -> bool:
        """Whether an answer may start; a single one always may, and fails later if memory is short."""
        if not self.running:
            return True
        return self.running < self._settings.max_concurrent and self._promised + needed <= self._free_bytes()

    def _take(self, needed: int) -> None:
        self.running += 1
        self._promised += needed

    def _give_back(self, needed: int) -> None:
        self.running -= 1
        self._promised -= needed
        self._call_next()

    def _call_next(self) -> None:
        while self._queue and self._fits(self._queue[0][0]):
            needed, called = self._queue.popleft()
            if not called.cancelled():
                self._take(needed)
                called.set_result(None)


async def answer(
    library: Library, turns: Turns, metrics: Metrics, asked: Conversation, files: Sequence[StoredFile], options: Options
) -> AsyncGenerator[TextPiece, None]:
    """Stream the text of an answer from `files` and those in `asked`; the last piece carries the `Answer`.

    It waits for its files to be read before it queues for a slot, so that other answers do not wait for them.
    """
    chat = library.chat

    def opened(cancel: threading.Event) -> list[Document]:
        inline = [load(each.data, name=each.filename) for each in asked.inline]
        return [*(library.document(file, cancel) for file in files), *inline]

    documents = await run_in_thread(opened)
    needed = library.answer_bytes(documents, asked.messages, options.get("max_new_tokens", 0))
    async with turns.turn(needed):
        started: float | None = time.perf_counter()

        def pieces(cancel: threading.Event) -> Generator[TextPiece, None, None]:
            cancellable: Options = {**options, "cancel": cancel}
            return chat.stream(asked.messages, documents, **cancellable)

        async with aclosing(await stream_in_thread(pieces)) as stream:
            async for piece in stream:
                if started is not None:
                    metrics.first_token(time.perf_counter() - started)
                    started = None
                if piece.answer is not None:
                    metrics.answered(piece.answer)
                yield piece
