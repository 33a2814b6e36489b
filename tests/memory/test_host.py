"""Memories in RAM beside a GPU: their pieces, the plan that takes them, reading and the store; a CPU plays the GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from focusdoc import Document, FocusConfig, FocusEngine
from focusdoc.attention import attention_kernel, naive
from focusdoc.errors import MemoryShortageError
from focusdoc.memory import host, library, plan
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.host import HostBlock
from focusdoc.memory.int8 import BLOCKS
from focusdoc.memory.plan import SPARE_BYTES, MemoryPlan, plan_memory
from focusdoc.memory.reading import read_chunks
from focusdoc.memory.ring import Ring, Streams
from focusdoc.memory.store import DocumentStore
from focusdoc.modeling.base import BaseModel
from store_samples import IDS, KERNEL, NEW, SIZE, assert_exact, read_through
from tiny_models import tiny_model

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "PART_BYTES", 1 << 11)


def filled(device: torch.device = CPU, kind: Any = "model", dtype: torch.dtype = torch.float32) -> HostBlock:
    """Random chunks in RAM, in parts of two."""
    shape = (2, 5, 2, 16, 8)
    generator = torch.Generator().manual_seed(0)
    block = HostBlock.wrap(BLOCKS[kind].empty(shape, dtype, CPU), Ring(Streams(device)))
    for layer in range(2):
        keys, values = (torch.randn(shape[1:], generator=generator).to(device, dtype) for _ in range(2))
        block.put(layer, 0, keys, values)
    return block


def attended(block: MemoryBlock, layer: int, name: str, query: torch.Tensor) -> torch.Tensor:
    kernel = attention_kernel(name, query.device)
    return block.attend(layer, query, kernel=kernel, scaling=0.3, query_start=16)[0]


class TestPieces:
    @pytest.mark.parametrize("kind", ["model", "int8"])
    def test_chunks_are_views_and_a_selection_is_a_copy(self, kind: Any) -> None:
        block = filled(kind=kind)
        part, some = block.chunks(1, 9).chunks(1, 3), block.select(torch.tensor([3, 0]))
        assert (part.num_chunks, some.num_chunks) == (2, 2)
        assert part.keys.data_ptr() == block.keys[:, 2].data_ptr()
        assert part.tensors().keys() == block.tensors().keys()
        for layer in (0, 1):
            keys, values = block.host_block.layer(layer, torch.float32)
            assert torch.equal(part.layer(layer, torch.float32)[0], keys[2:4])
            assert torch.equal(some.layer(layer, torch.float32)[1], values[[3, 0]])

    def test_a_layer_stays_what_it_is_when_others_pass(self) -> None:
        block = filled()
        layers = [block.layer(layer, torch.float32) for layer in (0, 1, 0, 1)]
        for layer, (keys, values) in zip((0, 1, 0, 1), layers, strict=True):
            assert torch.equal(keys, block.keys[layer])
            assert torch.equal(values, block.values[layer])

    @pytest.mark.parametrize("kernel", ["naive", "sdpa"])
    @pytest.mark.parametrize("part_bytes", [1, 1 << 11, 1 << 20])
    def test_attention_is_that_over_the_plain_block(
        self, kernel: str, part_bytes: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(host, "PART_BYTES", part_bytes)
        block = filled().chunks(1, 5)
        query = torch.randn(4, 4, 3, 8, generator=torch.Generator().manual_seed(1))
        for layer in (0, 1, 0):
            found = attended(block, layer, kernel, query)
            wanted, _ = naive.attend(query, block.keys[layer], block.values[layer], scaling=0.3, query_start=16)
            torch.testing.assert_close(found, wanted, atol=2e-6, rtol=1e-5)


class TestReading:
    @pytest.fixture(autouse=True)
    def _a_gpu_that_is_full(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only buffers fit on the device; its RAM has room for everything."""
        monkeypatch.setattr(plan, "free_bytes", lambda _: SPARE_BYTES + 2 * 2600)
        monkeypatch.setattr(
            library,
            "plan_memory",
            lambda space, **given: plan_memory(
                replace(space, maps=False, host=lambda: 10**12, disk=lambda: None), **given
            ),
        )

    @pytest.mark.parametrize("kind", ["model", "int8"])
    def test_what_does_not_fit_is_read_into_ram_and_stored(self, folder: Path, base: BaseModel, kind: Any) -> None:
        plans: list[MemoryPlan] = []
        wanted = read_chunks(base, IDS + NEW * 20, SIZE, KERNEL, memory_dtype=kind)
        for ids, expected in ((IDS, 90), (IDS + NEW * 20, 70), (IDS + NEW * 20, 0)):
            blocks, encoded = read_through(DocumentStore(folder), base, ids, memory_dtype=kind, on_plan=plans.append)
            assert encoded == expected
            assert all(isinstance(block, HostBlock) for block in blocks)
            assert len({id(block.ring) for block in blocks if isinstance(block, HostBlock)}) == 1
        assert [plan.rung for plan in plans] == ["host"] * 3
        found = torch.cat([block.keys for block in blocks if block.chunk_len == SIZE], dim=1)
        torch.testing.assert_close(found, wanted[0].keys, atol=1.0 if kind == "int8" else 1e-5, rtol=1e-5)

    def test_answers_and_their_sources_are_those_of_a_plain_memory(
        self, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = tiny_model("llama", vocab_size=len(tiny_tokenizer), max_position_embeddings=1024)
        config = FocusConfig(chunk_size=64, allow_untrained=True, memory_dtype="model", active_chunks=3)
        engine = FocusEngine(BaseModel(model, tiny_tokenizer, "tiny"), None, config)
        document = Document.from_text("The house is blue. A word is a word! Is it? " * 9)
        answers = []
        for free in (10**9, 7 * 256 * engine.base.kv_bytes_per_token + 2 * 64 * engine.base.kv_bytes_per_token):
            monkeypatch.setattr(plan, "free_bytes", lambda _, free=free: SPARE_BYTES + free)
            memory = engine.read(document)
            answers.append(engine.ask(memory, "Which?", max_new_tokens=4))
        assert isinstance(memory.blocks[0], HostBlock)
        assert answers[0].token_ids == answers[1].token_ids
        assert [one.text for one in answers[0].sources] == [one.text for one in answers[1].sources]
        assert answers[0].chunk_shares == pytest.approx(answers[1].chunk_shares, abs=1e-5)

    def test_reading_keeps_what_plain_reading_keeps(self, base: BaseModel) -> None:
        blocks, _ = read_through(None, base, IDS, memory_dtype="model")
        assert_exact(blocks, read_chunks(base, IDS, SIZE, KERNEL))


@pytest.mark.gpu
class TestOnAGpu:
    """The same on a GPU with streams of its own."""

    @pytest.fixture(autouse=True)
    def _gpu(self) -> None:
        if not torch.cuda.is_available():
            pytest.skip("a memory beside a GPU needs a CUDA GPU, and there is none")

    @pytest.mark.parametrize("kind", ["model", "int8"])
    def test_attention_is_that_over_a_block_on_the_gpu(self, kind: Any) -> None:
        gpu = torch.device("cuda", 0)
        block = filled(gpu, kind, torch.bfloat16)
        assert all(tensor.is_pinned() for tensor in block.tensors().values())
        there = block.to(gpu)
        for step in range(50):
            query = torch.randn(5, 4, 2, 8, device=gpu, dtype=torch.bfloat16)
            for layer in (0, 1):
                found, wanted = (attended(one, layer, "sdpa", query) for one in (block, there))
                torch.testing.assert_close(found, wanted, atol=2e-2, rtol=2e-2, msg=f"step {step}, layer {layer}")

    def test_reading_is_that_into_the_gpu(self) -> None:
        base = BaseModel(tiny_model().cuda())
        beside = read_chunks(base, IDS, SIZE, KERNEL, ring=Ring(Streams(base.device)))
        there = read_chunks(base, IDS, SIZE, KERNEL)
        for one, other in zip(beside, there, strict=True):
            torch.testing.assert_close(one.keys, other.keys.cpu())


def test_ram_that_cannot_be_pinned_is_an_error_with_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Runtime:
        @staticmethod
        def cudaHostRegister(*_: int) -> int:
            return 2

    monkeypatch.setattr(torch.cuda, "cudart", Runtime)
    streams = object.__new__(Streams)
    streams.device = torch.device("cuda:0")
    with pytest.raises(MemoryShortageError, match=r"40 bytes of RAM.*cuda:0 \(CUDA error 2\)"):
        streams.pin(torch.zeros(10))
