"""Finding: every signal counts, over one document or several, and windows become passages."""

from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import pytest
import torch

from focusdoc import Document, FocusConfig, FocusEngine
from focusdoc.memory.chunk_memory import DocumentMemory
from focusdoc.readers.finding import SIGNALS, WORDS, Finder, Found, Places
from focusdoc.readers.passages import choose_passages
from tiny_models import tiny_engine

TEXT = " ".join(f"The colour of house {number} is painted blue." for number in range(60))
OTHER = " ".join(f"In the year {number} the cuckoo came back late." for number in range(1700, 1740))
HEADS = ((0, 1), (1, 2))


@pytest.fixture(scope="module")
def engine(tiny_tokenizer: Any) -> FocusEngine:
    return tiny_engine(tiny_tokenizer, FocusConfig(chunk_size=64, local_window=256))


@pytest.fixture(scope="module")
def memories(engine: FocusEngine) -> list[DocumentMemory]:
    return [engine.read(Document.from_text(text, {"name": text[:6]})) for text in (TEXT, OTHER)]


def with_finder(engine: FocusEngine, finder: Finder) -> FocusEngine:
    other = engine.with_reader(None)
    other.finder = finder
    return other


class TestPlaces:
    def test_every_window_has_its_tokens_and_its_chunk(
        self, engine: FocusEngine, memories: list[DocumentMemory]
    ) -> None:
        places = engine.find(memories, "Which house?").places
        assert {number for number, _, _ in places.spans} == {0, 1}
        ids = [token for memory in memories for token in memory.token_ids]
        for index in range(0, len(places.spans), 7):
            number, start, end = places.spans[index]
            first, last = places.tokens[index].tolist()
            said = engine.base.tokenizer.decode(ids[first:last])
            assert said == (TEXT, OTHER)[number][start:end]
            chunk = memories[number].chunks[places.chunk_of(index)]
            offset = memories[0].num_tokens if number else 0
            assert chunk.token_start <= (first + last) // 2 - offset < chunk.token_end


@pytest.mark.parametrize("adapter", [True, False], ids=["candidates", "a look"])
def test_a_finder_keeps_no_engine_alive(engine: FocusEngine, adapter: bool) -> None:
    config = FocusConfig(chunk_size=64, local_window=256, heads=((0, 1),))
    own = FocusEngine(engine.base, engine.adapter if adapter else None, config)
    own.find(own.read(Document.from_text(TEXT)), "Which house?")
    other, kept = own.with_reader(None), weakref.ref(own)
    del own
    gc.collect()
    assert other.finder is not None
    assert kept() is None


class TestSignals:
    def test_each_is_largest_at_its_best_window_and_finite_everywhere(
        self, engine: FocusEngine, memories: list[DocumentMemory]
    ) -> None:
        found = with_finder(engine, Finder(engine.own_way, HEADS)).find(memories, "Which house?")
        assert found.signals.isfinite().all()
        best = found.signals.amax(dim=0)
        for name in ("looked", "heads"):
            assert best[SIGNALS.index(name)] == pytest.approx(math.log(1.02), abs=1e-4)
        assert best[SIGNALS.index("words")] == 1

    def test_words_alone_find_the_words(self, engine: FocusEngine, memories: list[DocumentMemory]) -> None:
        found = engine.find(memories, "Which year had a cuckoo in 1712?")
        number, start, end = found.places.spans[int(found.signals[:, WORDS].argmax())]
        assert number == 1
        assert "1712" in OTHER[start:end]

    def test_without_heads_that_signal_says_nothing(self, engine: FocusEngine, memories: list[DocumentMemory]) -> None:
        found = with_finder(engine, Finder(engine.own_way)).find(memories, "Which house?")
        assert not found.signals[:, SIGNALS.index("heads")].any()

    def test_an_engine_without_an_adapter_finds_by_its_heads_and_words(self, engine: FocusEngine) -> None:
        look = FocusEngine(engine.base, None, FocusConfig(chunk_size=64, local_window=256, heads=((0, 1), (1, 0))))
        found = look.find(look.read(Document.from_text(TEXT)), "What of house 17?")
        assert found.scores.isfinite().all()
        assert found.signals[:, SIGNALS.index("words")].max() == 1


class TestPassages:
    def found(self, spans: list[tuple[int, int, int]], scores: list[float]) -> Found:
        size = len(spans)
        places = Places(spans, torch.zeros(size, 2), torch.zeros(size, dtype=torch.int64), [0, 1, 2])
        return Found(places, torch.zeros(size, len(SIGNALS)), torch.tensor(scores))

    def test_the_best_first_and_no_more_than_asked(self) -> None:
        found = self.found([(0, 0, 100), (0, 200, 300), (1, 0, 100)], [1.0, 3.0, 2.0])
        chosen = choose_passages(found, lambda some: True, limit=2)
        assert [(each.memory, each.start) for each in chosen] == [(0, 200), (1, 0)]
        assert chosen[0].score == pytest.approx(0.665, abs=1e-3)

    def test_of_windows_that_share_most_the_better_one_stands_alone(self) -> None:
        found = self.found([(0, 0, 100), (0, 40, 140), (1, 40, 140)], [3.0, 2.0, 1.0])
        assert [(each.memory, each.start, each.end) for each in choose_passages(found, lambda some: True)] == [
            (0, 0, 100),
            (1, 40, 140),
        ]

    def test_windows_that_meet_are_one_passage(self) -> None:
        found = self.found([(0, 0, 100), (0, 300, 400), (0, 80, 180)], [3.0, 2.0, 1.0])
        assert [(each.start, each.end) for each in choose_passages(found, lambda some: True)] == [(0, 180), (300, 400)]

    def test_they_end_where_no_more_fit(self) -> None:
        found = self.found([(0, 0, 100), (0, 200, 300), (0, 400, 500)], [3.0, 2.0, 1.0])
        chosen = choose_passages(found, lambda some: sum(each.end - each.start for each in some) <= 250)
        assert [each.start for each in chosen] == [0, 200]
        assert len(choose_passages(found, lambda some: False)) == 1

    def test_no_more_are_taken_once_the_place_is_almost_surely_among_them(self) -> None:
        found = self.found([(0, 0, 100), (0, 200, 300), (0, 400, 500), (0, 600, 700)], [9.0, 5.0, 1.0, 0.0])
        starts = {
            enough: [each.start for each in choose_passages(found, lambda some: True, enough=enough)]
            for enough in (0.9, 0.99, 1.1)
        }
        assert starts == {0.9: [0], 0.99: [0, 200], 1.1: [0, 200, 400, 600]}

    def test_windows_that_a_passage_covers_count_with_it(self) -> None:
        found = self.found([(0, 0, 100), (0, 40, 140), (1, 0, 100)], [5.0, 5.0, 0.0])
        assert [each.memory for each in choose_passages(found, lambda some: True)] == [0]
