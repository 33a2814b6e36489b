"""Parts of a memory on their way through two buffers: nothing is computed with half a copy, nothing copied over it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.int8 import Int8Block
from focusdoc.memory.ring import Part, Ring

CPU = torch.device("cpu")
LAYERS = 3


class Mark(NamedTuple):
    """So many operations of a line."""

    line: str
    count: int


class FakeStreams:
    """Two lines that only write down what they are to do; `run` does it later, in any order that their waits allow."""

    device = CPU

    def __init__(self) -> None:
        self.orders: dict[str, list[Mark | Callable[[], object]]] = {"copying": [], "computing": []}
        #: Copies and computations in the order in which they were asked for.
        self.log: list[str] = []
        self.pinned: list[Tensor] = []

    def pin(self, tensor: Tensor) -> None:
        self.pinned.append(tensor)

    def allocate(self, num_bytes: int) -> Tensor:
        return torch.full((num_bytes,), 77, dtype=torch.uint8)

    def copy(self, target: Tensor, source: Tensor) -> None:
        self.log.append("copy")
        self.orders["copying"].append(partial(torch.Tensor.copy_, target, source))

    def compute(self, work: Callable[[], None]) -> None:
        self.log.append("compute")
        self.orders["computing"].append(work)

    def mark_copied(self) -> Mark:
        return Mark("copying", len(self.orders["copying"]))

    def mark_computed(self) -> Mark:
        return Mark("computing", len(self.orders["computing"]))

    def copy_after(self, mark: Mark) -> None:
        self.orders["copying"].append(mark)

    def compute_after(self, mark: Mark) -> None:
        self.orders["computing"].append(mark)

    def run(self, prefer: Callable[[Sequence[str]], str]) -> None:
        """Do everything; where both lines could go on, `prefer` chooses."""
        done = {"copying": 0, "computing": 0}

        def ready(line: str) -> bool:
            if done[line] == len(self.orders[line]):
                return False
            order = self.orders[line][done[line]]
            return not isinstance(order, Mark) or done[order.line] >= order.count

        while streams := [line for line in done if ready(line)]:
            line = prefer(streams)
            order = self.orders[line][done[line]]
            if not isinstance(order, Mark):
                order()
            done[line] += 1
        assert done == {line: len(orders) for line, orders in self.orders.items()}, "the lines wait for each other"


def plain(num_chunks: int, chunk_len: int, seed: int = 0) -> MemoryBlock:
    generator = torch.Generator().manual_seed(seed)
    return MemoryBlock(*(torch.randn(LAYERS, num_chunks, 2, chunk_len, 4, generator=generator) for _ in range(2)))


def quantized(num_chunks: int, chunk_len: int) -> MemoryBlock:
    given, block = (
        plain(num_chunks, chunk_len),
        Int8Block.empty((LAYERS, num_chunks, 2, chunk_len, 4), torch.float32, CPU),
    )
    for layer in range(LAYERS):
        block.put(layer, 0, given.keys[layer], given.values[layer])
    return block


def use(ring: Ring, part: Part, error: Exception | None = None) -> None:
    """Compute with `part`: when it comes to that, it must be there, whole and untouched."""
    with ring.use(part) as block:
        expected = ring.blocks[part.number].piece(*part[1:])

        def check() -> None:
            assert type(block) is type(expected)
            for name, tensor in expected.tensors().items():
                assert torch.equal(block.tensors()[name], tensor), (part, name)

        ring.streams.compute(check)  # type: ignore[attr-defined]
        if error is not None:
            raise error


#: By name, the blocks and what one layer asks of them: (block, start, stop).
ORDERS: dict[str, tuple[list[MemoryBlock], list[tuple[int, int, int]]]] = {
    "one part": ([plain(3, 5)], [(0, 0, 3)]),
    "two parts": ([plain(4, 5)], [(0, 0, 2), (0, 2, 4)]),
    "several, and a ragged last one": ([plain(5, 5), plain(1, 2, 1)], [(0, 0, 2), (0, 2, 4), (0, 4, 5), (1, 0, 1)]),
    "8 bits": ([quantized(3, 5), quantized(1, 2)], [(0, 0, 2), (0, 2, 3), (1, 0, 1)]),
}
PREFERENCES: dict[str, Callable[[Sequence[str]], str]] = {
    "copying early": lambda streams: streams[0],
    "copying late": lambda streams: streams[-1],
    "by chance": random.Random(3).choice,
}


def started(blocks: Iterable[MemoryBlock]) -> tuple[Ring, FakeStreams]:
    streams = FakeStreams()
    ring = Ring(streams)
    for block in blocks:
        ring.add(block)
    return ring, streams


def step(order: Sequence[tuple[int, int, int]]) -> list[Part]:
    """The parts that one step asks for, layer by layer."""
    return [Part(number, layer, start, stop) for layer in range(LAYERS) for number, start, stop in order]


@pytest.mark.parametrize("name", ORDERS)
class TestSteps:
    @pytest.mark.parametrize("prefer", PREFERENCES)
    def test_every_part_is_whole_when_it_is_computed_with(self, name: str, prefer: str) -> None:
        blocks, order = ORDERS[name]
        ring, streams = started(blocks)
        for part in step(order) * 3:
            use(ring, part)
        streams.run(PREFERENCES[prefer])

    def test_from_the_second_step_on_the_next_part_is_on_its_way_before_this_one_is_used(self, name: str) -> None:
        blocks, order = ORDERS[name]
        ring, streams = started(blocks)
        for part in step(order):
            use(ring, part)
        following = itertools.cycle(step(order))
        next(following)
        first = len(streams.log)
        for part in step(order) * 2:
            begin = len(streams.log)
            use(ring, part)
            asked = streams.log[begin:]
            assert asked.pop() == "compute"
            copies = len(blocks[next(following).number].tensors())
            if begin == first:  # that the steps begin anew could not be foreseen: its own copy, too
                copies += len(blocks[part.number].tensors())
            assert asked == ["copy"] * copies

    def test_nothing_is_copied_twice(self, name: str) -> None:
        blocks, order = ORDERS[name]
        ring, streams = started(blocks)
        for part in step(order) * 4:
            use(ring, part)
        tensors = sum(len(blocks[part.number].tensors()) for part in step(order))
        ahead = len(blocks[order[0][0]].tensors())  # of a fifth step
        assert streams.log.count("copy") == 4 * tensors + ahead


class TestTrouble:
    @settings(max_examples=60)
    @given(
        asked=st.lists(
            st.tuples(st.integers(0, 1), st.integers(0, LAYERS - 1), st.integers(0, 3), st.integers(1, 4)), max_size=30
        ),
        seed=st.integers(0, 1000),
    )
    def test_any_order_of_parts_of_any_size_is_right(self, asked: list[tuple[int, ...]], seed: int) -> None:
        ring, streams = started([plain(5, 3), quantized(5, 4)])
        for number, layer, start, count in asked:
            use(ring, Part(number, layer, start, min(5, start + count)))
        streams.run(random.Random(seed).choice)

    @pytest.mark.parametrize("prefer", PREFERENCES)
    def test_an_error_while_computing_leaves_the_buffers_in_order(self, prefer: str) -> None:
        blocks, order = ORDERS["several, and a ragged last one"]
        ring, streams = started(blocks)
        for number, part in enumerate(step(order) * 3):
            use(ring, part)
            if number % 4 == 1:
                with pytest.raises(ZeroDivisionError):
                    use(ring, part, ZeroDivisionError())
        streams.run(PREFERENCES[prefer])

    @pytest.mark.parametrize("prefer", PREFERENCES)
    def test_a_copy_that_failed_halfway_is_taken_for_nothing(
        self, prefer: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ring, streams = started([plain(3, 5)])
        first, second, third = (Part(0, layer, 0, 3) for layer in range(LAYERS))
        use(ring, first)
        use(ring, second)
        real, calls = streams.copy, itertools.count()

        def failing(target: Tensor, source: Tensor) -> None:
            if next(calls):
                raise MemoryError
            real(target, source)

        with monkeypatch.context() as patch:
            patch.setattr(streams, "copy", failing)
            with pytest.raises(MemoryError):
                use(ring, third)  # over what was the first part
        for part in (first, third, second):
            use(ring, part)
        streams.run(PREFERENCES[prefer])

    def test_blocks_are_pinned_when_they_are_added(self) -> None:
        ring, streams = started([quantized(2, 3)])
        assert streams.pinned == list(ring.blocks[0].tensors().values())
