"""The queue for answers: slots, bytes, order, and those that go away while they wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from focusdoc.server.answers import ServerSettings, Turns
from focusdoc.server.refusals import BusyError


class Answers:
    """Answers that begin when it is their turn, and end when they are told to."""

    def __init__(self, free: int = 100, **settings: int) -> None:
        self.turns = Turns(ServerSettings(**settings), lambda: free)  # type: ignore[arg-type]
        self.begun: list[str] = []
        self.cancelled_after: dict[str, str] = {}
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, name: str, needed: int = 1) -> None:
        self._ends[name] = asyncio.Event()
        self._tasks[name] = asyncio.ensure_future(self._answer(name, needed))
        await asyncio.sleep(0)

    async def _answer(self, name: str, needed: int) -> None:
        async with self.turns.turn(needed):
            self.begun.append(name)
            await self._ends[name].wait()
        for other in self.cancelled_after.get(name, ""):  # before anything else can run
            self._tasks[other].cancel()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await self._tasks[name]
        await asyncio.sleep(0)

    async def go_away(self, *names: str) -> None:
        for name in names:
            self._tasks[name].cancel()
        await asyncio.wait([self._tasks[name] for name in names])
        await asyncio.sleep(0)

    def failure(self, name: str) -> BaseException | None:
        return self._tasks[name].exception() if self._tasks[name].done() else None


def running(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 10))


def test_the_first_that_came_is_the_next() -> None:
    async def test() -> None:
        answers = Answers(max_concurrent=2)
        for name in "abcd":
            await answers.ask(name)
        assert answers.begun == ["a", "b"]
        assert answers.turns.waiting == 2
        await answers.end("b")
        assert answers.begun == ["a", "b", "c"]
        await answers.end("a")
        assert answers.begun == ["a", "b", "c", "d"]
        assert answers.turns.waiting == 0

    running(test)


def test_bytes_are_promised_once() -> None:
    async def test() -> None:
        answers = Answers(free=100, max_concurrent=4)
        await answers.ask("a", 60)
        await answers.ask("large", 60)
        await answers.ask("small", 10)  # it fits, but would overtake
        assert answers.begun == ["a"]
        await answers.end("a")
        assert answers.begun == ["a", "large", "small"]

    running(test)


def test_one_alone_begins_however_much_it_needs() -> None:
    async def test() -> None:
        answers = Answers(free=100)
        await answers.ask("huge", 1000)
        assert answers.begun == ["huge"]

    running(test)


def test_too_many_are_refused() -> None:
    async def test() -> None:
        answers = Answers(max_concurrent=1, max_waiting=1)
        for name in "abc":
            await answers.ask(name)
        assert isinstance(answers.failure("c"), BusyError)
        await answers.end("a")
        assert answers.begun == ["a", "b"]

    running(test)


@pytest.mark.parametrize("gone", ["b", "bc", "ab"])
def test_who_goes_away_leaves_the_place_to_the_next(gone: str) -> None:
    async def test() -> None:
        answers = Answers(free=100, max_concurrent=2)
        await answers.ask("a", 60)
        await answers.ask("b", 90)
        await answers.ask("c", 30)
        await answers.ask("d", 10)
        await answers.go_away(*gone)
        if "a" not in gone:
            await answers.end("a")
        assert set(answers.begun) - set(gone) == set("acd") - set(gone)
        for name in set("cd") - set(gone):
            await answers.end(name)
        await answers.ask("e", 100)
        assert answers.begun[-1] == "e"

    running(test)


def test_who_goes_away_just_as_it_is_called_gives_the_place_back() -> None:
    async def test() -> None:
        answers = Answers(max_concurrent=1)
        for name in "abc":
            await answers.ask(name)
        answers.cancelled_after["a"] = "b"  # b is called, and has not run yet
        await answers.end("a")
        await answers.go_away("b")
        assert answers.begun == ["a", "c"]

    running(test)
