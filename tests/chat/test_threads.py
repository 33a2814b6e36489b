"""Work in threads from coroutines: the loop goes on, and what is left early ends and frees what it held."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator

import pytest

from focusdoc.chat.threads import run_in_thread, stream_in_thread


class Work:
    """A generator that counts slowly until it is cancelled, and knows when it was closed."""

    def __init__(self) -> None:
        self.cancel: threading.Event | None = None
        self.closed = threading.Event()
        self.steps = 0

    def count(self, cancel: threading.Event) -> Generator[int, None, None]:
        self.cancel = cancel
        try:
            while not cancel.is_set():
                time.sleep(0.02)
                self.steps += 1
                yield self.steps
        finally:
            self.closed.set()


def test_the_loop_goes_on_meanwhile() -> None:
    async def main() -> tuple[str, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        result = await run_in_thread(lambda _: time.sleep(0.3) or "done")
        ticking.cancel()
        return result, ticks

    result, ticks = asyncio.run(main())
    assert result == "done"
    assert ticks > 5


def test_items_come_in_order_and_the_stream_ends() -> None:
    async def main() -> list[int]:
        return [item async for item in await stream_in_thread(lambda _: (item for item in range(5)))]

    assert asyncio.run(main()) == [0, 1, 2, 3, 4]


def test_leaving_a_stream_closes_the_generator() -> None:
    work = Work()

    async def main() -> None:
        stream = await stream_in_thread(work.count)
        async for item in stream:
            if item == 3:
                break
        await stream.aclose()

    asyncio.run(main())
    assert work.closed.wait(2)
    assert work.cancel is not None
    assert work.cancel.is_set()
    assert work.steps == 3


def test_cancelling_a_task_ends_the_thread_and_closes_the_generator() -> None:
    work = Work()

    async def main() -> None:
        async def consume() -> None:
            async for _ in await stream_in_thread(work.count):
                pass

        task = asyncio.create_task(consume())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(work.closed.wait, 2)

    asyncio.run(main())
    assert work.closed.is_set()


def test_cancelling_a_call_tells_its_thread() -> None:
    told = threading.Event()

    def work(cancel: threading.Event) -> None:
        if cancel.wait(5):
            told.set()

    async def main() -> None:
        task = asyncio.create_task(run_in_thread(work))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert told.wait(2)


def test_errors_arrive() -> None:
    def fail(_: threading.Event) -> Generator[int, None, None]:
        yield 1
        raise ValueError("two")

    async def main() -> None:
        async for _ in await stream_in_thread(fail):
            pass

    with pytest.raises(ValueError, match="two"):
        asyncio.run(main())


def test_a_stream_that_ends_leaves_the_callers_event_alone() -> None:
    async def main() -> bool:
        cancel = threading.Event()
        items = [item async for item in await stream_in_thread(lambda _: (item for item in range(3)), cancel)]
        return items == [0, 1, 2] and not cancel.is_set()

    assert asyncio.run(main())


def test_an_error_leaves_the_callers_event_alone() -> None:
    def fails(_: threading.Event) -> Generator[int, None, None]:
        yield 1
        raise ValueError("it fails")

    def refuses(_: threading.Event) -> Generator[int, None, None]:
        raise ValueError("it fails")

    async def main(make: Callable[[threading.Event], Generator[int, None, None]]) -> bool:
        cancel = threading.Event()
        with pytest.raises(ValueError, match="it fails"):
            [item async for item in await stream_in_thread(make, cancel)]
        return cancel.is_set()

    assert not asyncio.run(main(fails))
    assert not asyncio.run(main(refuses))
