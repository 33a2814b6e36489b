"""The plan before a reading: the first rung of the ladder that holds the document, or a refusal with numbers."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from focusdoc import Document, FocusConfig, FocusEngine
from focusdoc.errors import MemoryShortageError
from focusdoc.memory import entries, library
from focusdoc.memory import plan as plan_module
from focusdoc.memory.int8 import BLOCKS
from focusdoc.memory.library import DocumentReader
from focusdoc.memory.plan import SPARE_BYTES, FreeSpace, MemoryPlan, free_bytes, memory_bytes, plan_memory
from focusdoc.memory.reading import read_chunks
from focusdoc.memory.store import DocumentStore
from focusdoc.modeling.base import BaseModel
from store_samples import IDS, KERNEL, SIZE, assert_exact, read_through
from tiny_models import tiny_model

SMOL = SimpleNamespace(num_layers=30, num_kv_heads=3, head_dim=64, dtype="bfloat16")
MODEL, INT8 = 23_040, 11_902  # bytes a token in chunks of 2,048
TAILS = 50 * 256 * MODEL
BUFFERS = 2 * (64 << 20)  # that the parts of a memory beside a GPU pass through
NEEDED = {"model": 102_400 * MODEL + TAILS, "int8": memory_bytes(SMOL, "int8", 102_400, 2048) + TAILS}


def planned(free: int, **given: Any) -> MemoryPlan:
    """The plan of 102,400 tokens of the default model with `free` bytes beside what is spared."""
    places = {name: given.pop(name) for name in ("host", "disk", "maps") if name in given}
    space = FreeSpace(free=free + SPARE_BYTES, **{name: place for name, place in places.items() if place is not None})
    return plan_memory(space, **{"kv": SMOL, "num_tokens": 102_400, "chunk_size": 2048, "tail_tokens": 256, **given})


class TestLadder:
    @pytest.mark.parametrize(
        ("free", "memory_dtype", "disk", "rung", "kind"),
        [
            (NEEDED["model"], "auto", None, "memory", "model"),
            (NEEDED["model"] - 1, "auto", None, "int8", "int8"),
            (NEEDED["int8"], "auto", 0, "int8", "int8"),
            (NEEDED["int8"] - 1, "auto", NEEDED["int8"] - TAILS, "disk", "int8"),
            (TAILS, "auto", NEEDED["int8"] - TAILS, "disk", "int8"),
            (TAILS - 1, "auto", 10**12, "none", "int8"),
            (TAILS, "auto", NEEDED["int8"] - TAILS - 1, "none", "int8"),
            (TAILS, "auto", None, "none", "int8"),
            (10**12, "int8", None, "int8", "int8"),
            (NEEDED["model"] - 1, "model", 10**12, "disk", "model"),
            (NEEDED["model"] - 1, "model", None, "none", "model"),
        ],
    )
    def test_the_first_rung_that_holds_it(
        self, free: int, memory_dtype: Any, disk: int | None, rung: str, kind: str
    ) -> None:
        plan = planned(free, memory_dtype=memory_dtype, disk=None if disk is None else lambda: disk)
        assert (plan.rung, plan.memory_dtype) == (rung, kind)
        assert (plan.num_tokens, plan.num_chunks) == (102_400, 50)
        assert plan.bytes_needed == (TAILS if rung == "disk" else NEEDED[kind])
        assert plan.is_forced == (rung in ("disk", "none") or (memory_dtype, rung) == ("auto", "int8"))

    @pytest.mark.parametrize(
        ("free", "beside", "memory_dtype", "rung"),
        [
            (NEEDED["int8"], 0, "auto", "int8"),
            (NEEDED["int8"] - 1, NEEDED["int8"] - TAILS, "auto", "host"),
            (NEEDED["int8"] - 1, NEEDED["int8"] - TAILS - 1, "auto", "none"),
            (TAILS + BUFFERS, 10**12, "auto", "host"),
            (TAILS + BUFFERS - 1, 10**12, "auto", "none"),
            (TAILS + BUFFERS, NEEDED["model"] - TAILS, "model", "host"),
            (TAILS + BUFFERS, NEEDED["model"] - TAILS - 1, "model", "none"),
        ],
    )
    def test_beside_a_gpu_ram_is_the_last_rung(self, free: int, beside: int, memory_dtype: Any, rung: str) -> None:
        plan = planned(free, memory_dtype=memory_dtype, maps=False, host=lambda: SPARE_BYTES + beside)
        assert plan.rung == rung
        if rung == "host":
            kept = "int8" if memory_dtype == "auto" else memory_dtype
            assert (plan.memory_dtype, plan.bytes_beside) == (kept, NEEDED[kept] - TAILS)
            assert plan.bytes_needed == TAILS + BUFFERS
            assert plan.is_forced

    def test_a_refusal_tells_the_ram_beside_the_gpu(self) -> None:
        plan = planned(TAILS, maps=False, host=lambda: 12_345)
        with pytest.raises(MemoryShortageError, match=r"are free, and so are 12,345 of RAM beside the GPU; close"):
            plan.check("a book")

    def test_what_the_store_knows_takes_no_memory_where_it_is_mapped(self) -> None:
        known: Callable[[str], int] = {"model": 51_200, "int8": 0}.__getitem__
        half = 51_200 * MODEL + TAILS
        assert planned(half, known=known).rung == "memory"
        assert planned(half, known=known, maps=False).rung == "none"
        assert planned(TAILS, known=lambda _: 102_400).rung == "store"
        assert planned(-SPARE_BYTES, known=lambda _: 102_400, tail_tokens=0).rung == "store"  # nothing can be short

    def test_seconds_are_of_what_is_not_known_and_asked_only_then(self) -> None:
        plan = planned(10**12, known=lambda _: 51_200, seconds_per_token=lambda: 0.001)
        assert plan.seconds == pytest.approx(51.2)
        assert planned(10**12, known=lambda _: 102_400, seconds_per_token=lambda: 1 // 0).seconds == 0

    @given(
        tokens=st.integers(1, 10**7),
        chunk=st.integers(1, 4096),
        free=st.integers(0, 10**12),
        disk=st.none() | st.integers(0, 10**12),
    )
    def test_a_rung_never_needs_more_than_there_is(self, tokens: int, chunk: int, free: int, disk: int | None) -> None:
        space = FreeSpace(free=free, disk=lambda: disk)
        plan = plan_memory(space, kv=SMOL, num_tokens=tokens, chunk_size=chunk, tail_tokens=9)
        if plan.rung != "none":
            assert plan.bytes_needed + SPARE_BYTES <= free
            assert plan.bytes_on_disk <= (disk or 0)
        elif tokens >= chunk:
            tails = memory_bytes(SMOL, "model", plan.num_chunks * 9, chunk)
            assert plan.bytes_needed + SPARE_BYTES > free
            total = memory_bytes(SMOL, "int8", tokens, chunk)
            assert disk is None or disk < total or tails + SPARE_BYTES > free

    @pytest.mark.parametrize("kind", ["model", "int8"])
    @pytest.mark.parametrize("tokens", [90, 80, 5])
    def test_the_bytes_are_those_of_the_memory(self, base: BaseModel, kind: Any, tokens: int) -> None:
        blocks = read_chunks(base, IDS[:tokens], SIZE, KERNEL, memory_dtype=kind)
        assert memory_bytes(base, kind, tokens, SIZE) == sum(block.num_bytes for block in blocks)


class TestLine:
    def test_as_computed(self) -> None:
        assert str(planned(10**11, seconds_per_token=lambda: 0.0008)) == "102,400 tokens, 2.7 GB of memory, about 82 s"

    def test_a_lower_rung_says_why(self) -> None:
        in_int8, on_disk = (str(planned(free, disk=lambda: 10**11)) for free in (2 * 10**9, 10**9))
        assert in_int8 == (
            "102,400 tokens, 1.5 GB of memory in int8, about 1 s "
            "(2.7 GB would not fit into the 2.0 GB that can be used)"
        )
        assert on_disk == (
            "102,400 tokens, 1.2 GB on the disk in int8, 295 MB of memory, about 1 s "
            "(2.7 GB would not fit into the 1.0 GB that can be used)"
        )
        assert str(planned(10**9, host=lambda: 10**11)) == (
            "102,400 tokens, 1.2 GB of memory in int8, kept in RAM beside the GPU, 429 MB on it, about 1 s "
            "(2.7 GB would not fit into the 1.0 GB that can be used)"
        )
        assert str(planned(10)) == "102,400 tokens, 1.5 GB of memory in int8: more than the 10 bytes that can be used"


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let so many bytes of memory be free, beside what is spared."""
    return lambda count: monkeypatch.setattr(plan_module, "free_bytes", lambda _: SPARE_BYTES + count)


class TestReading:
    def read(self, folder: Path | None, base: BaseModel, **given: Any) -> Any:
        store = None if folder is None else DocumentStore(folder)
        return read_through(store, base, IDS, document="a book", **given)

    def test_what_does_not_fit_as_computed_is_kept_in_int8(
        self, folder: Path, base: BaseModel, free: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        free(90 * base.kv_bytes_per_token - 1)
        for encoded in (90, 0):
            blocks, found = self.read(folder, base)
            assert found == encoded
            assert {block.keys.dtype for block in blocks} == {torch.int8}
        assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
        assert "Reading a book: 90 tokens" in caplog.text
        assert "in int8" in caplog.text

    def test_who_takes_the_plan_is_not_told_in_the_log(
        self, base: BaseModel, free: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        free(90 * base.kv_bytes_per_token - 1)
        told: list[MemoryPlan] = []
        self.read(None, base, on_plan=told.append)
        assert [plan.rung for plan in told] == ["int8"]
        assert not caplog.records

    @pytest.mark.parametrize("kind", ["auto", "model"])
    @pytest.mark.parametrize("tokens", [90, 80])
    def test_what_fits_on_the_disk_alone_is_written_while_it_is_read(
        self, folder: Path, base: BaseModel, free: Any, monkeypatch: pytest.MonkeyPatch, kind: Any, tokens: int
    ) -> None:
        free(0)
        kept = "model" if kind == "model" else "int8"
        rooms: list[int] = []
        real = BLOCKS[kept].empty
        monkeypatch.setattr(BLOCKS[kept], "empty", lambda shape, *rest: (rooms.append(shape[1]), real(shape, *rest))[1])
        progress: list[tuple[int, int]] = []
        store = DocumentStore(folder)
        blocks, encoded = read_through(
            store, base, IDS[:tokens], memory_dtype=kind, progress=lambda *call: progress.append(call)
        )
        assert encoded == tokens
        assert max(rooms) == 2, "only a batch of chunks is ever held"
        assert progress[-1] == (tokens, tokens)
        assert [done for done, _ in progress] == sorted({done for done, _ in progress})
        assert_exact(blocks, read_chunks(base, IDS[:tokens], SIZE, KERNEL, memory_dtype=kept))
        again, encoded = read_through(DocumentStore(folder), base, IDS[:tokens], memory_dtype=kind)
        assert encoded == 0
        assert_exact(again, blocks)
        assert {path.name for path in folder.iterdir() if path.name.startswith(".")} == {".lock", ".readers"}

    def test_a_full_disk_is_a_refusal(
        self, folder: Path, base: BaseModel, free: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(path: Path, blocks: Iterator[Any], num_chunks: int) -> None:
            next(blocks)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        free(0)
        monkeypatch.setattr(library, "write_segment", full)
        with pytest.raises(MemoryShortageError, match=r"'a book' does not fit into memory.*No space left"):
            self.read(folder, base)
        assert not list(folder.glob(".spool*"))

    def test_what_a_killed_reading_left_is_removed_but_not_what_another_is_writing(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        with entries.spool_folder(folder) as used:
            left = folder / used.name.replace(used.name[-3:], "xyz")
            left.mkdir()
            (left / "chunks-0.safetensors").write_bytes(b"half")
            with entries.store_lock(folder):
                entries.remove_unfinished(folder)
            assert not left.exists()
            assert used.exists()
        assert not used.exists()

    def test_a_document_in_the_store_is_mapped_however_little_is_free(
        self, folder: Path, base: BaseModel, free: Any
    ) -> None:
        first, _ = self.read(folder, base)
        free(0)
        again, encoded = self.read(folder, base)
        assert encoded == 0
        assert_exact(again, first)


class TestEngine:
    @pytest.fixture(autouse=True)
    def with_stores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FOCUSDOC_STORE", raising=False)

    @pytest.fixture
    def engine(self, tiny_tokenizer: Any) -> FocusEngine:
        model = tiny_model("llama", vocab_size=len(tiny_tokenizer), max_position_embeddings=1024)
        config = FocusConfig(chunk_size=64, allow_untrained=True)
        return FocusEngine(BaseModel(model, tiny_tokenizer, "tiny"), None, config)

    def test_tells_the_plan_with_room_for_tails(self, engine: FocusEngine) -> None:
        plan = engine.plan(Document.from_text("word " * 100))
        per_token = engine.base.kv_bytes_per_token
        assert (plan.num_tokens, plan.num_chunks, plan.rung) == (500, 8, "memory")
        assert plan.bytes_needed == (500 + 8 * (128 + 128)) * per_token
        assert plan.seconds > 0

    def test_answers_from_int8_and_from_the_disk(
        self, engine: FocusEngine, free: Any, tmp_path: Path, tiny_tokenizer: Any
    ) -> None:
        document = Document.from_text("word " * 100)
        tails = 8 * 256 * engine.base.kv_bytes_per_token
        answers = set()
        for count, store in ((10**9, None), (tails + 499 * engine.base.kv_bytes_per_token, None), (tails, tmp_path)):
            free(count)
            asked = FocusEngine(engine.base, engine.adapter, engine.config, store=store)
            answers.add(asked.ask(asked.read(document), "Which?", max_new_tokens=1).usage.document_tokens)
        assert answers == {500}

    def test_refuses_what_fits_nowhere_before_reading(
        self, engine: FocusEngine, free: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        free(1000)
        passes: list[int] = []
        monkeypatch.setattr(engine.base, "run", lambda *_, **__: passes.append(1))
        document = Document.from_text("word " * 100, {"name": "big.txt"})
        plan = engine.plan(document)
        assert plan.rung == "none"
        numbers = rf"needs {plan.bytes_needed:,} bytes of memory in int8.*{plan.bytes_free:,} are free"
        with pytest.raises(MemoryShortageError, match=rf"'big.txt' {numbers}.*no document store"):
            engine.read(document)
        assert not passes

    def test_a_store_without_room_is_told_of(self, engine: FocusEngine, free: Any, tmp_path: Path) -> None:
        free(8 * 256 * engine.base.kv_bytes_per_token)
        asked = FocusEngine(engine.base, engine.adapter, engine.config, store=DocumentStore(tmp_path, max_bytes=77))
        with pytest.raises(MemoryShortageError, match="may take 77 of the disk"):
            asked.read(Document.from_text("word " * 100))


def test_the_speed_is_estimated_and_then_measured(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = DocumentReader(base, SIZE, KERNEL)
    estimated = reader.seconds_per_token()
    assert 0 < estimated < 1
    reader.read(IDS)  # too few to tell
    assert reader.seconds_per_token() == estimated
    monkeypatch.setattr(library, "_MIN_TIMED_TOKENS", len(IDS))
    monkeypatch.setattr(library.time, "perf_counter", iter([100.0, 109.0]).__next__)
    reader.read(IDS)
    assert reader.seconds_per_token() == 9 / len(IDS)


def test_of_the_lower_layers_alone_a_token_takes_its_share(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "estimate_seconds_per_token", lambda *_, **__: 0.5)
    whole, part = (DocumentReader(one, SIZE, KERNEL) for one in (base, base.first_layers(1)))
    assert part.seconds_per_token() == whole.seconds_per_token() / 2


def test_the_free_bytes_of_this_machine_are_known() -> None:
    assert free_bytes(torch.device("cpu")) > 1 << 20
