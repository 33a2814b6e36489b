"""Running blocking calls of coroutines in threads, so that the event loop is not blocked.

Both helpers pass a `threading.Event` to the work. It is set when the coroutine is cancelled or its consumer stops; the
work then ends after its current token and frees its resources.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from typing import TypeVar

T = TypeVar("T")
_END = object()


async def run_in_thread(work: Callable[[threading.Event], T], cancel: threading.Event | None = None) -> T:
    """The result of `work(cancel)`.

    Args:
        cancel: the caller's own event; None for a new one.
    """
    event = cancel or threading.Event()
    try:
        return await asyncio.to_thread(work, event)
    except asyncio.CancelledError:
        event.set()
        raise


async def stream_in_thread(
    make: Callable[[threading.Event], Generator[T, None, None]], cancel: threading.Event | None = None
) -> AsyncGenerator[T, None]:
    """The items of the generator `make(cancel)`, each computed in a thread.

    Exceptions of `make` itself are raised here, before the first item.
    """
    event = cancel or threading.Event()
    return _stream(await run_in_thread(make, event), event)


async def _stream(items: Generator[T, None, None], cancel: threading.Event) -> AsyncGenerator[T, None]:
    step: asyncio.Future[object] | None = None
    try:
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(next, items, _END))
            # Shielded, since a thread cannot be stopped, and the generator must not be closed before it ends.
            item = await asyncio.shield(step)
            if item is _END:
                return
            yield item  # type: ignore[misc]  # anything but _END is a T
    finally:
        cancel.set()
        if step is None or step.done():
            items.close()
        else:
            step.add_done_callback(lambda _: items.close())
