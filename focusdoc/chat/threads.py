"""Calls that take seconds, from a coroutine: they run in a thread, and the event loop goes on meanwhile.

Both helpers hand a `threading.Event` to the work. When the coroutine is cancelled, or its consumer leaves, the event
is set; the work ends after its current token and frees what it held.
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

    What `make` itself raises is raised here, before the first item is asked for.
    """
    event = cancel or threading.Event()
    return _stream(await run_in_thread(make, event), event)


async def _stream(items: Generator[T, None, None], cancel: threading.Event) -> AsyncGenerator[T, None]:
    step: asyncio.Future[object] | None = None
    try:
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(next, items, _END))
            # Shielded, since a thread cannot be stopped: it ends by itself, and only then may the generator close.
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
