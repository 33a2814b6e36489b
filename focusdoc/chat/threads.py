"""Blocking calls in threads of their own, so that coroutines do not block the event loop; locks of texts being read.

`run_in_thread` and `stream_in_thread` pass a `threading.Event` to the work. It is set when the coroutine is cancelled
or its consumer stops; the work then ends after its current token and frees its resources.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, TypeVar

from focusdoc.errors import FocusdocError

if TYPE_CHECKING:
    from focusdoc.decoding.answer import Answer, TextPiece
    from focusdoc.memory.reading import Progress

T = TypeVar("T")
_END = object()
#: Seconds between a waiting thread's checks for cancellation.
_POLL = 0.05


class ReadingCancelledError(FocusdocError):
    """Reading was cancelled; internal to this package."""


def stopped_by(cancel: threading.Event | None, progress: Progress | None = None) -> Progress | None:
    """Wrap a progress callback so that it raises `ReadingCancelledError` once `cancel` is set.

    Without `cancel` it is returned as it is; None means the default progress bar.
    """
    if cancel is None:
        return progress

    def show(done: int, total: int) -> None:
        if cancel.is_set():
            raise ReadingCancelledError("cancelled")
        if progress is not None:
            progress(done, total)

    return show


class TextLocks:
    """A lock for each text: threads with the same text wait for each other, others do not."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._changed = threading.Condition()

    @contextmanager
    def of(self, text: str, cancel: threading.Event | None = None) -> Generator[None, None, None]:
        """Hold the lock of `text`; ReadingCancelledError if `cancel` was set while waiting."""
        with self._changed:
            while text in self._taken:
                if cancel is not None and cancel.is_set():
                    raise ReadingCancelledError("cancelled")
                self._changed.wait(None if cancel is None else _POLL)
            self._taken.add(text)
        try:
            yield
        finally:
            with self._changed:
                self._taken.remove(text)
                self._changed.notify_all()


def last_answer(pieces: Iterable[TextPiece]) -> Answer:
    """Consume a stream and return its answer; FocusdocError if it was cancelled before there was one."""
    answer = None
    for piece in pieces:
        answer = piece.answer
    if answer is None:
        raise FocusdocError("The call was cancelled while its documents were read.")
    return answer


async def run_in_thread(work: Callable[[threading.Event], T], cancel: threading.Event | None = None) -> T:
    """The result of `work(cancel)`; `cancel` is the caller's own event, or a new one."""
    event = cancel or threading.Event()
    own = _OwnThread()
    try:
        return await own.run(work, event)
    except asyncio.CancelledError:
        event.set()
        raise
    finally:
        own.end()


async def stream_in_thread(
    make: Callable[[threading.Event], Generator[T, None, None]], cancel: threading.Event | None = None
) -> AsyncGenerator[T, None]:
    """The items of the generator `make(cancel)`, computed on demand, all in one thread.

    Exceptions of `make` itself are raised here, before the first item.
    """
    event = cancel or threading.Event()
    own = _OwnThread()
    try:
        items = await own.run(make, event)
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError):
            event.set()
        own.end()
        raise
    return _stream(items, event, own)


class _OwnThread:
    """A thread for one call.

    A thread that has computed keeps its OpenMP workers. Once a process has more workers than cores, they stop spinning
    while they wait, and a question took a fifth longer. So threads are not shared or kept, and end with their call.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="focusdoc")

    def run(self, work: Callable[..., T], *args: object) -> asyncio.Future[T]:
        """Run `work(*args)` in the thread, with the caller's context variables."""
        return asyncio.get_running_loop().run_in_executor(self._pool, copy_context().run, work, *args)

    def end(self) -> None:
        """End the thread after its current call."""
        self._pool.shutdown(wait=False)


async def _stream(items: Generator[T, None, None], cancel: threading.Event, own: _OwnThread) -> AsyncGenerator[T, None]:
    step: asyncio.Future[object] | None = None
    try:
        while True:
            step = own.run(next, items, _END)
            # Shielded, since a thread cannot be stopped, and the generator must not be closed before it ends.
            item = await asyncio.shield(step)
            if item is _END:
                return
            yield item  # type: ignore[misc]  # anything but _END is a T
    except (asyncio.CancelledError, GeneratorExit):
        cancel.set()
        raise
    finally:
        if step is None or step.done():
            items.close()
        else:
            step.add_done_callback(lambda _: items.close())
        own.end()
