"""Reading: each chunk's KV is what the model makes of that chunk alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from focusdoc.attention import attention_kernel
from focusdoc.errors import MemoryMismatchError
from focusdoc.memory.chunk_memory import DocumentMemory, checked_memories
from focusdoc.memory.reading import distinct_tokens, read_chunks
from focusdoc.modeling.base import BaseModel
from tiny_models import tiny_model


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text"])
@pytest.mark.parametrize(("tokens", "lengths"), [(50, [16, 16, 16, 2]), (32, [16, 16]), (5, [5])])
def test_a_chunks_kv_is_that_of_the_chunk_alone(family: str, tokens: int, lengths: list[int]) -> None:
    model = tiny_model(family)
    ids = torch.randint(3, 96, (tokens,)).tolist()
    blocks = read_chunks(BaseModel(model), ids, 16, attention_kernel("auto"))
    chunks = [(block, index) for block in blocks for index in range(block.num_chunks)]
    assert [block.chunk_len for block, _ in chunks] == lengths
    for number, (block, index) in enumerate(chunks):
        cache = DynamicCache()
        with torch.no_grad():
            model(torch.tensor([ids[number * 16 : number * 16 + 16]]), past_key_values=cache)
        for layer, kept in enumerate(cache.layers):
            torch.testing.assert_close(block.keys[layer, index], kept.keys[0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(block.values[layer, index], kept.values[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_the_reading_batch_changes_nothing(batch: int) -> None:
    base = BaseModel(tiny_model())
    ids = torch.randint(3, 96, (90,)).tolist()
    alone = read_chunks(base, ids, 16, attention_kernel("auto"), batch=1)
    batched = read_chunks(base, ids, 16, attention_kernel("auto"), batch=batch)
    for one, other in zip(alone, batched, strict=True):
        torch.testing.assert_close(one.keys, other.keys, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(one.values, other.values, atol=1e-6, rtol=1e-5)


@settings(max_examples=30)
@given(
    order=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    rest=st.integers(0, 7),
    batch=st.integers(1, 4),
    kind=st.sampled_from(["model", "int8"]),
)
def test_a_chunk_that_occurs_again_is_encoded_once(order: list[int], rest: int, batch: int, kind: Any) -> None:
    base, kernel = BaseModel(tiny_model()), attention_kernel("auto")
    chunks = torch.randint(3, 96, (4, 8), generator=torch.Generator().manual_seed(0)).tolist()
    ids = [token for index in order for token in chunks[index]] + chunks[0][:rest]
    rows: list[int] = []
    run = base.run_kv_only

    def counted(token_ids: torch.Tensor, *args: Any) -> None:
        rows.append(token_ids.numel())
        run(token_ids, *args)

    base.run_kv_only = counted  # type: ignore[method-assign]
    seen: list[int] = []
    blocks = read_chunks(
        base, ids, 8, kernel, batch=batch, memory_dtype=kind, progress=lambda done, total: seen.append(done)
    )
    assert sum(rows) == distinct_tokens(ids, 8) == 8 * len(set(order)) + rest
    assert seen[-1] == len(ids)
    assert seen == sorted(set(seen))
    for number, index in enumerate(order):
        (alone,) = read_chunks(base, chunks[index], 8, kernel, memory_dtype=kind)
        found = [part.float() for part in blocks[0].chunks(number, number + 1).layer(1, torch.float32)]
        for one, other in zip(found, alone.layer(1, torch.float32), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_progress_counts_every_token_once() -> None:
    seen: list[tuple[int, int]] = []
    read_chunks(
        BaseModel(tiny_model()),
        list(range(3, 93)),
        16,
        attention_kernel("auto"),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (90, 90)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_a_memory_holds_exactly_its_kv() -> None:
    base = BaseModel(tiny_model())
    ids = list(range(3, 53))
    memory = DocumentMemory(tuple(ids), (), read_chunks(base, ids, 16, attention_kernel("auto")), "maker")
    assert memory.num_tokens == 50
    assert memory.num_bytes == 50 * base.kv_bytes_per_token


def test_a_memory_of_another_maker_is_refused() -> None:
    memory = DocumentMemory((1,), (), (), "model A, chunks of 16")
    with pytest.raises(MemoryMismatchError, match=r"model A, chunks of 16.*model B"):
        checked_memories([memory], ["model B, chunks of 16"])


def test_reading_ends_at_the_last_layers_keys_and_values() -> None:
    base = BaseModel(tiny_model())
    ran: list[int] = []
    places = base._no_last_mlp
    assert [place.parent for place in places] == [base.decoder.layers[-1]]
    for index, layer in enumerate(base.decoder.layers):
        layer.mlp.register_forward_hook(lambda *_, index=index: ran.append(index))
    kernel = attention_kernel("naive")
    blocks = read_chunks(base, list(range(3, 36)), 16, lambda *args, **kw: (ran.append(9), kernel(*args, **kw))[1])
    assert 1 not in ran  # nothing behind the keys and values of layer 1
    assert ran.count(9) == 2  # attention of layer 0: one pass for two chunks, one for the ragged one
    assert len(blocks) == 2
