"""Chunks that are spread over holders give what one process gives, also when holders are lost."""

from __future__ import annotations

import gc
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from focusdoc import FocusConfig, FocusEngine
from focusdoc.cluster import ray_holders, reading
from focusdoc.cluster.head import Cluster
from focusdoc.cluster.holder import Asked, CandidateStep, Holder, HolderSettings, Part, UnknownQuestionError
from focusdoc.cluster.reading import PART_CHUNKS, placed
from focusdoc.cluster.spread import shares_of
from focusdoc.decoding.state import QuestionRows
from focusdoc.errors import MemoryMismatchError, MemoryShortageError, WorkerLostError
from focusdoc.memory.library import DocumentReader
from focusdoc.memory.plan import SPARE_BYTES
from focusdoc.modeling.base import BaseModel
from focusdoc.readers.finding import RELEVANCE
from holders_here import HoldersHere, cluster_here, open_here
from tiny_models import CLASSES, random_adapter, random_finding, tiny_model

TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}
#: 71 tokens are 4 full chunks of 16 and one of 7; parts have two chunks.
DOCUMENT, QUESTION, NEW = 71, 9, 6


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PART_CHUNKS", 2)
    monkeypatch.setattr(reading, "WHOLE_PARTS", 2)


def ids(count: int, seed: int) -> list[int]:
    return torch.randint(3, 96, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def engines(count: int, family: str = "llama", **config: Any) -> tuple[FocusEngine, FocusEngine]:
    """One process as the judge, and the same engine over `count` holders."""
    base = BaseModel(tiny_model(family))
    adapter = random_adapter(base.model)
    settings = FocusConfig(**{"chunk_size": 16, "prompt_window": 6, "local_window": 12, "quote_tokens": 0, **config})
    return FocusEngine(base, adapter, settings, store=None), FocusEngine(
        base, adapter, settings, store=None, cluster=cluster_here(count, base, adapter)
    )


def generated(engine: FocusEngine) -> tuple[list[int], torch.Tensor]:
    found = engine.generate(ids(DOCUMENT + 12, 1), max_new_tokens=NEW, return_logits=True)
    assert found.logits is not None
    return found.token_ids, found.logits


def holders(engine: FocusEngine) -> HoldersHere:
    assert engine.cluster is not None
    assert isinstance(engine.cluster.holders, HoldersHere)
    return engine.cluster.holders


@pytest.mark.parametrize("family", CLASSES)
@pytest.mark.parametrize("positions", ["sequential", "shared"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_logits_are_those_of_one_process(family: str, positions: str, count: int) -> None:
    alone, spread = engines(count, family, candidate_positions=positions)
    tokens, logits = generated(alone)
    own_tokens, own_logits = generated(spread)
    torch.testing.assert_close(own_logits, logits, **TOLERANCE)
    assert own_tokens == tokens


@pytest.mark.parametrize(
    "config",
    [
        {"local_attention": "refresh"},
        {"active_chunks": 2},
        {"memory_dtype": "int8"},
        {"chunk_batch": 1},
        {"condensing": "look", "heads": ((0, 1), (1, 2)), "quote_tokens": 8},
    ],
    ids=["paper mode", "few active chunks", "int8", "one chunk a pass", "look"],
)
def test_so_are_those_of_every_setting(config: dict[str, Any]) -> None:
    alone, spread = engines(3, **config)
    torch.testing.assert_close(generated(spread)[1], generated(alone)[1], **TOLERANCE)


def test_only_the_candidates_are_sent() -> None:
    base = BaseModel(tiny_model("llama"))
    adapter = random_adapter(base.model)
    holder = Holder(HolderSettings(model=base.model, adapter=adapter, fingerprint=base.fingerprint, store=None))
    holder.read(Part("part", tuple(ids(48, 1)), 16, base.num_layers, 2, "model"))
    rows = QuestionRows(1, 2, ((0, 1), (1, 0)))
    asked = Asked("question", ("part",), (0, 1, 2), FocusConfig(chunk_size=16), (5, 6, 7), 50, rows)
    sent = [
        *holder.condense(asked, 0, [CandidateStep((5, 6), 7)]),
        *holder.answer_token_scores("question", [2, 0], [7], torch.ones(1, 3), 3),
        *holder.question_token_scores("question", [1, 2]),
        *holder.head_scores(asked, rows.heads),
    ]
    assert len(sent) == 2 + 2 + 2 + 3
    for tensor in sent:
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_a_step_is_one_round_trip_to_each_holder() -> None:
    _, spread = engines(2)
    generated(spread)
    assert holders(spread).rounds["condense"] == NEW


@pytest.mark.parametrize("after", range(11))
def test_a_lost_holder_changes_nothing(after: int) -> None:
    alone, spread = engines(2, active_chunks=3)
    holders(spread).dies_after = (after % 2, after)
    torch.testing.assert_close(generated(spread)[1], generated(alone)[1], **TOLERANCE)
    assert spread.cluster is not None
    assert spread.cluster.num_replaced == 1


def test_sources_are_those_of_one_process_where_a_holder_has_no_active_chunk(tiny_tokenizer: Any) -> None:
    base = BaseModel(tiny_model("llama", vocab_size=len(tiny_tokenizer), max_position_embeddings=4096), tiny_tokenizer)
    config = FocusConfig(chunk_size=64, local_window=512, quote_tokens=0, active_chunks=1)
    adapter = random_adapter(base.model)
    alone = FocusEngine(base, adapter, config, store=None)
    spread = FocusEngine(base, adapter, config, store=None, cluster=cluster_here(3, base, adapter))
    text = " ".join(f"On day {day} the keeper counts {7 * day % 31} ships at dawn." for day in range(12)).encode()
    answers = [
        engine.ask(engine.read(text), "What?", max_new_tokens=80, ignore_eos=True, max_sources=5)
        for engine in (alone, spread)
    ]
    places = [[(source.start, source.end) for source in answer.sources] for answer in answers]
    assert len(places[0]) > 1
    assert places[0] == places[1]


def test_an_answer_tells_of_lost_holders(tiny_tokenizer: Any) -> None:
    base = BaseModel(tiny_model("llama", vocab_size=len(tiny_tokenizer), max_position_embeddings=4096), tiny_tokenizer)
    config = FocusConfig(chunk_size=64, local_window=512, quote_tokens=0)
    adapter = random_adapter(base.model)
    spread = FocusEngine(base, adapter, config, store=None, cluster=cluster_here(2, base, adapter))
    memory = spread.read(b"The keeper counts ships at dawn. " * 9)
    undisturbed = spread.ask(memory, "What?", max_new_tokens=4)
    assert (undisturbed.usage.lost_workers, undisturbed.warnings) == (0, ())
    holders(spread).kill(1)
    answer = spread.ask(memory, "What?", max_new_tokens=4)
    assert answer.token_ids == undisturbed.token_ids
    assert answer.usage.lost_workers == 1
    assert "lost and replaced" in answer.warnings[0]


def test_questions_to_other_holders_go_on_while_one_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    _, spread = engines(2)
    cluster, begun, may_end = spread.cluster, threading.Event(), threading.Event()
    assert cluster is not None
    replace = holders(spread).replace

    def slow(index: int, generation: int) -> bool:
        begun.set()
        assert may_end.wait(60)
        return replace(index, generation)

    monkeypatch.setattr(holders(spread), "replace", slow)
    holders(spread).kill(0)
    lost = threading.Thread(target=cluster.call, args=({0: ("free_bytes", ())},))
    lost.start()
    assert begun.wait(60)
    other = threading.Thread(target=cluster.call, args=({1: ("free_bytes", ())},))
    other.start()
    other.join(30)
    went_on = not other.is_alive()
    may_end.set()
    lost.join(60)
    assert went_on
    assert cluster.num_replaced == 1


def test_a_part_that_is_freed_while_a_new_holder_reads_it_is_dropped_there(monkeypatch: pytest.MonkeyPatch) -> None:
    _, spread = engines(2)
    cluster, own = spread.cluster, holders(spread)
    assert cluster is not None
    cluster.keep(0, Part("part", tuple(ids(16, 1)), 16, 2, 1, "model"))
    own.kill(0)
    call = own.call

    def freed(calls: Any) -> Any:
        found = call(calls)
        if calls[0][0] == "read":
            cluster.drop("part")
            cluster.call({1: ("free_bytes", ())})  # of another question
        return found

    monkeypatch.setattr(own, "call", lambda calls: freed(calls) if 0 in calls else call(calls))
    cluster.call({0: ("free_bytes", ())})
    assert own.told == [("drop", ("part",))] * 2


def test_without_a_place_for_another_one_it_says_what_is_lost() -> None:
    _, spread = engines(2)
    holders(spread).dies_after = (1, 8)
    holders(spread).has_place = False
    with pytest.raises(WorkerLostError):
        generated(spread)


def test_once_there_is_a_place_again_it_goes_on() -> None:
    alone, spread = engines(2)
    memory = ids(DOCUMENT, 1)
    blocks, _ = spread.documents.read(memory)
    holders(spread).kill(1)
    holders(spread).has_place = False
    local, prompt = ids(9, 2), ids(9, 2)[-6:]
    with pytest.raises(WorkerLostError):
        spread.own_way.decoder(blocks, NEW).start(local, prompt)
    holders(spread).has_place = True
    found = spread.own_way.decoder(blocks, NEW).start(local, prompt)
    expected = alone.own_way.decoder(alone.documents.read(memory)[0], NEW).start(local, prompt)
    torch.testing.assert_close(found, expected, **TOLERANCE)


def test_a_part_that_is_not_read_yet_is_never_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    _, spread = engines(1)
    base, tokens = spread.base, tuple(ids(32, 1))
    holder = Holder(HolderSettings(model=base.model, adapter=spread.adapter, fingerprint=base.fingerprint, store=None))
    parts = [Part(key, tokens, 16, base.num_layers, 2, "model") for key in ("first", "second")]
    holder.read(parts[0])

    def fails(*_: Any, **__: Any) -> Any:
        raise MemoryShortageError("while it is read")

    with monkeypatch.context() as patch:
        patch.setattr(DocumentReader, "read", fails)
        with pytest.raises(MemoryShortageError):
            holder.read(parts[1])
    asked = Asked("question", ("first", "second"), (0, 1, 2, 3), spread.config, (5, 6), 4)
    step = CandidateStep((5,), 6)
    with pytest.raises(UnknownQuestionError):
        holder.condense(asked, 0, [step])
    holder.read(parts[1])
    assert holder.condense(asked, 0, [step])[0].shape[2] == 4


def test_what_every_host_stores_is_forgotten(tmp_path: Path) -> None:
    base = BaseModel(tiny_model("llama"))
    adapter = random_adapter(base.model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOCUSDOC_STORE", "on")
        cluster = cluster_here(2, base, adapter, store=str(tmp_path))
        engine = FocusEngine(base, adapter, FocusConfig(chunk_size=16), store=None, cluster=cluster)
        tokens = ids(DOCUMENT, 1)
        assert engine.documents.read(tokens)[1] == DOCUMENT
        assert engine.documents.read(tokens)[1] == 0
        assert engine.documents.plan(tokens).num_known == DOCUMENT
        assert engine.documents.read([*tokens, *ids(40, 3)])[1] < DOCUMENT  # whole parts are known again
        engine.documents.forget(tokens)
        assert not engine.documents.is_stored(tokens)


class TestQuestions:
    """Over documents with text, with passages, sources and several documents."""

    TEXTS = ("The keeper counts ships at dawn. " * 9, "The baker sells bread before noon. " * 5)

    @pytest.fixture
    def pair(self, tiny_tokenizer: Any) -> tuple[FocusEngine, FocusEngine]:
        model = tiny_model("llama", vocab_size=len(tiny_tokenizer), max_position_embeddings=4096)
        base = BaseModel(model, tiny_tokenizer)
        adapter = replace(random_adapter(base.model), finding=random_finding(base.model))
        config = FocusConfig(chunk_size=64, local_window=512, quote_tokens=64)
        return FocusEngine(base, adapter, config, store=None), FocusEngine(
            base, adapter, config, store=None, cluster=cluster_here(2, base, adapter)
        )

    @staticmethod
    def asked(engine: FocusEngine, **options: Any) -> Any:
        memories = [engine.read(text.encode()) for text in TestQuestions.TEXTS]
        return engine.ask(memories, "What does the keeper count?", max_new_tokens=8, **options)

    def test_answers_sources_and_shares_are_the_same(self, pair: tuple[FocusEngine, FocusEngine]) -> None:
        one, other = (self.asked(engine) for engine in pair)
        assert other.token_ids == one.token_ids
        assert [(s.document, s.start, s.end) for s in other.sources] == [
            (s.document, s.start, s.end) for s in one.sources
        ]
        assert other.chunk_shares == pytest.approx(one.chunk_shares, abs=1e-4)
        assert other.usage == one.usage

    def test_the_finder_scores_windows_the_same(self, pair: tuple[FocusEngine, FocusEngine]) -> None:
        one, other = (
            engine.find([engine.read(text.encode()) for text in self.TEXTS], "What does the keeper count?")
            for engine in pair
        )
        torch.testing.assert_close(other.signals, one.signals, atol=1e-4, rtol=1e-4)
        assert one.signals[:, RELEVANCE].any()

    def test_several_questions_at_once(self, pair: tuple[FocusEngine, FocusEngine]) -> None:
        alone, spread = pair
        questions = ["What does the keeper count?", "What does the baker sell?", "Who is at dawn?"]
        one, other = (
            engine.ask_many(engine.read(self.TEXTS[0].encode()), questions, max_new_tokens=5)
            for engine in (alone, spread)
        )
        assert [each.token_ids for each in other] == [each.token_ids for each in one]

    def test_untrained_candidates_are_those_of_the_head(
        self, pair: tuple[FocusEngine, FocusEngine], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ray_holders, "open_cluster", open_here)
        base, config = pair[0].base, FocusConfig(chunk_size=64, local_window=512, allow_untrained=True)
        loading: Any = {"tokenizer": base.tokenizer, "adapter": None, "config": config, "store": None}
        one, other = (FocusEngine.from_pretrained(base.model, **loading, cluster=count) for count in (None, 2))
        assert self.asked(other).token_ids == self.asked(one).token_ids

    def test_what_is_not_needed_is_freed(self, pair: tuple[FocusEngine, FocusEngine]) -> None:
        _, spread = pair
        self.asked(spread)
        gc.collect()
        spread.plan(b"Some text")  # the next call tells
        told = [method for method, _ in holders(spread).told]
        assert told.count("close") == 2
        assert told.count("drop") == sum(-(-len(text) // 128) for text in self.TEXTS)

    def test_a_memory_is_of_use_to_its_cluster_only(self, pair: tuple[FocusEngine, FocusEngine]) -> None:
        for one, other in (pair, pair[::-1]):
            with pytest.raises(MemoryMismatchError):
                one.ask(other.read(b"Some text"), "What?")


class TestPlacement:
    """Short documents stay whole on a holder; long ones are spread."""

    SHORT, LONG = 2 * 2 * 16, 2 * 2 * 16 + 1

    @staticmethod
    def kept_by(engine: FocusEngine, blocks: Any) -> list[int]:
        assert engine.cluster is not None
        return sorted(shares_of(engine.cluster, blocks))

    def test_short_documents_are_whole_on_the_holder_that_keeps_least(self) -> None:
        _, spread = engines(3)
        read = [spread.documents.read(ids(length, length))[0] for length in (self.SHORT, 10, 12, 50, 8)]
        assert [self.kept_by(spread, blocks) for blocks in read] == [[0], [1], [2], [1], [2]]

    def test_long_ones_are_spread(self) -> None:
        _, spread = engines(2)
        assert self.kept_by(spread, spread.documents.read(ids(self.LONG, 1))[0]) == [0, 1]

    def test_a_whole_document_goes_where_it_is_stored(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FOCUSDOC_STORE", "on")
        base = BaseModel(tiny_model("llama"))
        cluster = cluster_here(2, base, None, stores=[str(tmp_path / "first"), str(tmp_path / "second")])
        engine = FocusEngine(base, random_adapter(base.model), FocusConfig(chunk_size=16), store=None, cluster=cluster)
        first, second = ids(self.SHORT, 1), ids(self.SHORT, 2)
        for tokens, holder in ((first, [0]), (second, [1]), (second, [1]), (second, [1]), (first, [0])):
            blocks, _ = engine.documents.read(tokens)
            assert self.kept_by(engine, blocks) == holder
            kept = blocks  # noqa: F841  # until the next one is read
        assert engine.documents.plan(second).num_known == len(second)

    def test_documents_that_are_read_at_once_go_to_different_holders(self) -> None:
        _, spread = engines(2)
        begun, found = threading.Barrier(2, timeout=60), []

        def read(seed: int) -> None:
            def wait(done: int, total: int) -> None:
                begun.wait()

            found.append(self.kept_by(spread, spread.documents.read(ids(16, seed), progress=wait)[0]))

        threads = [threading.Thread(target=read, args=(seed,)) for seed in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == [[0], [1]]

    def test_without_room_on_one_host_it_is_spread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        _, spread = engines(2)
        needed = spread.documents.plan(ids(self.SHORT, 1)).bytes_needed
        monkeypatch.setattr(holders(spread), "hosts", lambda: ["one", "other"])
        monkeypatch.setattr(
            Cluster, "free_bytes", lambda self: dict.fromkeys(("one", "other"), SPARE_BYTES + needed - 1)
        )
        assert self.kept_by(spread, spread.documents.read(ids(self.SHORT, 1))[0]) == [0, 1]


def test_a_holder_without_the_store_of_a_lost_one_reads_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOCUSDOC_STORE", "on")
    base = BaseModel(tiny_model("llama"))
    adapter = random_adapter(base.model)
    config = FocusConfig(chunk_size=16, prompt_window=6, local_window=12, quote_tokens=0)
    stores = [str(tmp_path / name) for name in ("first", "second")]
    spread = FocusEngine(base, adapter, config, store=None, cluster=cluster_here(2, base, adapter, stores=stores))
    tokens = ids(DOCUMENT, 1)
    blocks, _ = spread.documents.read(tokens)
    holders(spread).kill(1)
    holders(spread).stores[1] = str(tmp_path / "another host")
    alone = FocusEngine(base, adapter, config, store=None)
    expected = alone.own_way.decoder(alone.documents.read(tokens)[0], NEW).start(ids(9, 2), ids(6, 3))
    found = spread.own_way.decoder(blocks, NEW).start(ids(9, 2), ids(6, 3))
    torch.testing.assert_close(found, expected, **TOLERANCE)
    assert list((tmp_path / "another host").glob("*/*/chunks-0.safetensors"))


def test_a_host_with_less_memory_keeps_less(monkeypatch: pytest.MonkeyPatch) -> None:
    _, spread = engines(2)
    monkeypatch.setattr(holders(spread), "hosts", lambda: ["large", "small"])
    needed = spread.documents.plan(ids(DOCUMENT, 1)).bytes_needed
    free = {"large": SPARE_BYTES + needed * 9 // 10, "small": SPARE_BYTES + needed // 10 + 1}
    monkeypatch.setattr(Cluster, "free_bytes", lambda self: free)
    blocks, _ = spread.documents.read(ids(DOCUMENT, 1))
    assert spread.cluster is not None
    assert {index: places for index, (_, places) in shares_of(spread.cluster, blocks).items()} == {
        0: [0, 1, 2, 3],
        1: [4],
    }
    free["large"] -= needed // 2
    with pytest.raises(MemoryShortageError):
        spread.documents.read(ids(DOCUMENT, 1))


@pytest.mark.parametrize("chunks", [2, 5 * PART_CHUNKS], ids=["one part", "several"])
def test_what_is_stored_and_has_no_tails_takes_no_memory(
    chunks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOCUSDOC_STORE", "on")
    base = BaseModel(tiny_model("llama"))
    config = FocusConfig(chunk_size=16, local_window=12, heads=((0, 1),))
    cluster = cluster_here(2, base, None, stores=[str(tmp_path / "one"), str(tmp_path / "other")])
    spread = FocusEngine(base, None, config, store=None, cluster=cluster)
    tokens = ids(chunks * 16, 1)
    spread.documents.read(tokens)
    gc.collect()
    monkeypatch.setattr(Cluster, "free_bytes", lambda self: {host: SPARE_BYTES - 1 for host in self.holders.hosts()})
    assert spread.documents.plan(tokens).rung == "store"
    assert spread.documents.read(tokens)[1] == 0


def test_another_model_at_a_holder_is_refused() -> None:
    base, other = BaseModel(tiny_model("llama")), BaseModel(tiny_model("qwen3"))
    with pytest.raises(MemoryMismatchError, match="fingerprint"):
        cluster_here(1, base, None, model=other.model)


def test_another_version_at_a_holder_is_refused() -> None:
    with pytest.raises(MemoryMismatchError, match=r"the head 0\.0"):
        cluster_here(1, BaseModel(tiny_model("llama")), None, version="0.0")


@pytest.mark.parametrize(
    ("sizes", "shares", "holders"),
    [
        ([8, 8, 8, 8], [1, 1], [0, 0, 1, 1]),
        ([8, 8, 8, 3], [1, 1], [0, 0, 1, 1]),
        ([8, 8, 8, 8], [3, 1], [0, 0, 0, 1]),
        ([5], [1, 1, 1], [1]),
        ([8, 8], [1, 0], [0, 0]),
    ],
)
def test_parts_are_placed_in_order_and_by_shares(sizes: list[int], shares: list[int], holders: list[int]) -> None:
    assert placed(sizes, shares) == holders
