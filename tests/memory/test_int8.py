"""Int8 memories: how near they are, what they take, and attention over them against that over the numbers they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_shapes import biased
from focusdoc.attention import attention_kernel, naive
from focusdoc.memory import entries, int8
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.int8 import BLOCKS, Int8Block
from focusdoc.memory.reading import read_chunks
from focusdoc.memory.store import DocumentStore
from focusdoc.modeling.base import BaseModel
from int8_samples import dequantized
from store_samples import IDS, KERNEL, NEW, SIZE, assert_fresh, flip, only_entry, read_through
from tiny_models import tiny_model

CPU = torch.device("cpu")


def filled(shape: tuple[int, int, int, int, int], seed: int = 0) -> tuple[MemoryBlock, Int8Block]:
    """A plain block of random numbers with large channels and large tokens, and the int8 block of the same."""
    generator = torch.Generator().manual_seed(seed)
    plain = MemoryBlock(*(torch.randn(shape, generator=generator) for _ in range(2)))
    plain.keys[..., 0] *= 30  # as some channels of keys are in real models
    plain.values[..., :1, :] *= 30  # as the first tokens' values are
    small = Int8Block.empty(shape, torch.float32, CPU)
    for layer in range(shape[0]):
        small.put(layer, 0, plain.keys[layer], plain.values[layer])
    return plain, small


class TestNumbers:
    def test_a_channel_of_keys_and_a_token_of_values_are_off_by_half_a_step_at_most(self) -> None:
        plain, small = filled((2, 3, 2, 16, 8))
        (near,) = dequantized([small])
        assert ((near.keys - plain.keys).abs() <= plain.keys.abs().amax(3, keepdim=True) / 254 * 1.001).all()
        assert ((near.values - plain.values).abs() <= plain.values.abs().amax(4, keepdim=True) / 254 * 1.001).all()

    @settings(max_examples=60)
    @given(numbers=st.lists(st.floats(-1e30, 1e30, allow_subnormal=False), min_size=8, max_size=8))
    def test_any_numbers(self, numbers: list[float]) -> None:
        states = torch.tensor(numbers).view(1, 1, 2, 4)
        block = Int8Block.empty((1, 1, 1, 2, 4), torch.float32, CPU)
        block.put(0, 0, states, states)
        keys, values = block.layer(0, torch.float32)
        for found, axis in ((keys, 2), (values, 3)):
            step = (states.abs().amax(axis, keepdim=True) / 127).clamp_min(1e-30)
            assert ((found - states).abs() <= step * 0.5001).all()

    def test_of_a_long_chunk_take_a_little_more_than_half_the_bytes_of_bfloat16(self) -> None:
        shape = (30, 2, 3, 2048, 64)
        plain, small = (BLOCKS[kind].bytes_of(shape, torch.bfloat16) for kind in ("model", "int8"))
        assert 0.5 < small / plain < 0.54
        assert Int8Block.empty((1, 2, 3, 16, 8), torch.bfloat16, CPU).num_bytes == Int8Block.bytes_of(
            (1, 2, 3, 16, 8), torch.bfloat16
        )


# num_chunks, heads, KV heads, chunk_len, head_dim, rows, behind the chunk, window
SHAPES = {
    "one step": (3, 6, 2, 64, 8, 2, 9, None),
    "one row": (1, 4, 4, 32, 8, 1, 0, None),
    "a prompt": (3, 6, 2, 24, 8, 20, 0, None),
    "one KV head": (2, 4, 1, 300, 16, 2, 5, None),
    "a window": (3, 6, 2, 24, 8, 4, 7, 20),
    "chunks of one token": (4, 2, 2, 1, 8, 2, 0, None),
}


class TestAttention:
    @pytest.mark.parametrize("name", SHAPES)
    @pytest.mark.parametrize("kernel", ["naive", "sdpa"])
    @pytest.mark.parametrize("at_once", [1, 1 << 20], ids=["chunk by chunk", "all at once"])
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 3e-2)], ids=str)
    def test_is_that_over_the_numbers_in_float32(
        self,
        name: str,
        kernel: str,
        at_once: int,
        dtype: torch.dtype,
        tolerance: float,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(int8, "SCRATCH", at_once)
        num_chunks, heads, kv_heads, chunk_len, head_dim, rows, behind, window = SHAPES[name]
        generator = torch.Generator().manual_seed(1)
        states = (torch.randn(num_chunks, kv_heads, chunk_len, head_dim, generator=generator) for _ in range(2))
        block = Int8Block.empty((2, num_chunks, kv_heads, chunk_len, head_dim), dtype, CPU)
        block.put(1, 0, *states)
        query = torch.randn(num_chunks, heads, rows, head_dim, generator=generator).to(dtype)
        given = {"scaling": head_dim**-0.5, "query_start": chunk_len + behind, "window": window}
        wanted = naive.attend(query.float(), *block.layer(1, torch.float32), **given)
        found = block.attend(1, query, kernel=attention_kernel(kernel), **given)
        assert found[0].dtype == dtype
        torch.testing.assert_close(found[0].float(), wanted[0], atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(found[1], wanted[1], atol=tolerance, rtol=tolerance)

    @pytest.mark.parametrize("name", SHAPES)
    @pytest.mark.parametrize("kernel", ["naive", "sdpa"])
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-4), (torch.bfloat16, 3e-2)], ids=str)
    def test_large_biases_of_keys_and_queries_cost_nothing(
        self, name: str, kernel: str, dtype: torch.dtype, tolerance: float
    ) -> None:
        """Against attention over the keys themselves, but for half a step, which the biases do not widen."""
        num_chunks, heads, kv_heads, chunk_len, head_dim, rows, behind, window = SHAPES[name]
        generator = torch.Generator().manual_seed(1)
        keys, values = (torch.randn(num_chunks, kv_heads, chunk_len, head_dim, generator=generator) for _ in range(2))
        query = torch.randn(num_chunks, heads, rows, head_dim, generator=generator)
        query, keys = biased(query, keys)
        block = Int8Block.empty((1, num_chunks, kv_heads, chunk_len, head_dim), dtype, CPU)
        block.put(0, 0, keys, values)
        steps = (keys.amax(2, keepdim=True) - keys.amin(2, keepdim=True)) / 254
        near = block.layer(0, torch.float32)
        assert ((near[0] - keys).abs() <= steps / 2 + 2e-5).all()  # 2e-5: what float32 rounds a key of 100 by
        given = {"scaling": head_dim**-0.5, "query_start": chunk_len + behind, "window": window}
        wanted = naive.attend(query.to(dtype).float(), *near, **given)
        found = block.attend(0, query.to(dtype), kernel=attention_kernel(kernel), **given)
        torch.testing.assert_close(found[0].float(), wanted[0], atol=tolerance, rtol=tolerance)
        # The query times a scale is rounded once: 1/512 of scores that the steps make, up to 20 here.
        torch.testing.assert_close(found[1], wanted[1], atol=2 * tolerance, rtol=1e-5)


class TestPieces:
    def test_chunks_are_views_and_a_selection_is_a_copy(self) -> None:
        _, block = filled((2, 4, 2, 8, 8))
        wanted = dequantized([block])[0]
        part, some = block.chunks(1, 3), block.select(torch.tensor([3, 0]))
        assert isinstance(part, Int8Block)
        assert part.keys.data_ptr() == block.keys[:, 1].data_ptr()
        assert torch.equal(dequantized([part])[0].keys, wanted.keys[:, 1:3])
        assert torch.equal(dequantized([some])[0].values, wanted.values[:, [3, 0]])

    @pytest.mark.parametrize("batch", [1, 2, 7])
    def test_reading_quantizes_what_plain_reading_keeps(self, batch: int, base: BaseModel) -> None:
        plain = read_chunks(base, IDS, SIZE, KERNEL, batch=batch)
        small = read_chunks(base, IDS, SIZE, KERNEL, batch=batch, memory_dtype="int8")
        assert [block.keys.dtype for block in small] == [torch.int8] * 2
        for one, other in zip(dequantized(small), plain, strict=True):
            torch.testing.assert_close(one.keys, other.keys, atol=0.02 * float(other.keys.abs().max()), rtol=0)
            torch.testing.assert_close(one.values, other.values, atol=0.02 * float(other.values.abs().max()), rtol=0)


class TestStored:
    def read(self, folder: Path, base: BaseModel, ids: Sequence[int] = IDS) -> tuple[tuple[MemoryBlock, ...], int]:
        return read_through(DocumentStore(folder), base, list(ids), memory_dtype="int8")

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_come_back_bit_for_bit(self, folder: Path, dtype: torch.dtype) -> None:
        base = BaseModel(tiny_model().to(dtype))
        first, encoded = self.read(folder, base)
        again, known = self.read(folder, base)
        assert (encoded, known) == (90, 0)
        for one, other in zip(first, again, strict=True):
            assert isinstance(other, Int8Block)
            assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in one.tensors().items())

    def test_are_other_entries_than_those_of_the_models_dtype(self, folder: Path, base: BaseModel) -> None:
        self.read(folder, base)
        plain, encoded = read_through(DocumentStore(folder), base, IDS)
        assert encoded == 90
        assert_fresh(plain, base, IDS)
        assert len(entries.entry_folders(folder)) == 2
        assert self.read(folder, base)[1] == 0

    def test_go_on_from_their_beginning(self, folder: Path, base: BaseModel) -> None:
        self.read(folder, base)
        blocks, encoded = self.read(folder, base, IDS + NEW * 20)
        assert encoded == 70
        wanted = read_chunks(base, IDS + NEW * 20, SIZE, KERNEL)
        found = torch.cat([block.keys for block in dequantized(blocks) if block.chunk_len == SIZE], dim=1)
        torch.testing.assert_close(found, wanted[0].keys, atol=0.05, rtol=0)

    @pytest.mark.parametrize("file", ["chunks-0.safetensors", "tail.safetensors"])
    @pytest.mark.parametrize("place", [0.0, 0.05, 0.3, 0.99])
    def test_a_byte_flipped_is_a_miss(self, folder: Path, base: BaseModel, file: str, place: float) -> None:
        first, _ = self.read(folder, base)
        path = only_entry(folder) / file
        flip(path, int(path.stat().st_size * place))
        again, encoded = self.read(folder, base)
        assert encoded == 90
        assert torch.equal(again[0].keys, first[0].keys)
