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


async def run_in_thread(work: Callable[[threading.Event], T]) -> T:
    """The result of `work(cancel)`."""
    cancel = threading.Event()
    try:
        return await asyncio.to_thread(work, cancel)
    finally:
        cancel.set()


async def stream_in_thread(
    make: Callable[[threading.Event], Generator[T, None, None]],
) -> AsyncGenerator[T, None]:
    """The items of the generator `make(cancel)`, each computed in a thread."""
    cancel = threading.Event()
    items: Generator[T, None, None] | None = None
    step: asyncio.Future[object] | None = None
    try:
        items = await asyncio.to_thread(make, cancel)
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(next, items, _END))
            # Shielded, since a thread cannot be stopped: it ends by itself, and only then may the generator close.
            item = await asyncio.shield(step)
            if item is _END:
                return
            yield item  # type: ignore[misc]  # anything but _END is a T
    finally:
        cancel.set()
        if items is not None:
            if step is None or step.done():
                items.close()
            else:
                running = items
                step.add_done_callback(lambda _: running.close())
