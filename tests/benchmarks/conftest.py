"""Fixtures of the speed benchmark's tests: a tiny model on disk with an adapter, and results as a run leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmark_samples import row

from benchmarks.speed.cases import Settings
from focusdoc.evaluation.results import ResultFolder, Results, Shard
from focusdoc.modeling.adapter import untrained_adapter
from focusdoc.modeling.adapter_files import save_adapter
from tiny_models import tiny_model


@pytest.fixture(scope="session")
def settings(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A model of 2 random layers, one token a byte, with candidates that are copies, for chunks of 64."""
    folder = tmp_path_factory.mktemp("bench")
    model = tiny_model("llama", vocab_size=len(tiny_tokenizer), max_position_embeddings=16_384)
    model.save_pretrained(folder / "tiny")
    tiny_tokenizer.save_pretrained(folder / "tiny")
    adapter = untrained_adapter(model)
    adapter.config = adapter.config.model_copy(update={"chunk_size": 64})
    path = save_adapter(adapter, folder / "adapter")
    return Settings(model=str(folder / "tiny"), adapter=str(path), steps=2)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Two lengths of ours in chunks of 1,024, full attention and the paper at the shorter one, llama.cpp failed."""
    kv = 32_768 * 1000
    config = {
        "model": "tiny", "dtype": "bfloat16", "adapter": "abc", "device": "cpu", "processor": "a CPU",
        "threads": 2, "cores": 2, "torch": "2", "focusdoc": "1", "weight_bytes": 10_000_000,
        "candidate_bytes": 2_000_000, "linear_operations_per_token": 1_000_000,
    }  # fmt: skip
    rows = [
        {"task": "machine", "id": "0/0", "place": 0, "facts": {"length": 0, "chunk_size": 0}, "operations": 1e9,
         "bandwidth": 1e9},
        row("focus", 8192, 1024, read_seconds=10.0, first_seconds=11.0, second_seconds=0.5, token_seconds=0.1,
            kv_bytes=kv // 4, peak_bytes=kv // 2),
        row("full", 8192, read_seconds=30.0, first_seconds=30.0, token_seconds=0.3, kv_bytes=kv // 4, peak_bytes=kv),
        row("paper", 8192, first_seconds=50.0, token_seconds=4.0),
        row("llama.cpp", 8192, error="no room | at all"),
        row("focus", 32_768, 1024, read_seconds=41.0, first_seconds=42.0, second_seconds=1.0, token_seconds=0.2,
            kv_bytes=kv, peak_bytes=kv * 1.1, reopen_seconds=0.4),
    ]  # fmt: skip
    with ResultFolder(tmp_path / "bench", config).appending(Shard(), resume=False) as add:
        for one in rows:
            add(one)
    return Results.open(tmp_path / "bench")
