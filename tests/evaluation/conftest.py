"""Fixtures of the evaluation's tests: a tiny engine with candidates of its own, and little data folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from evaluation_samples import longbench_row, write_json, write_lines

from focusdoc import FocusConfig, FocusEngine
from focusdoc.modeling.base import BaseModel
from tiny_models import random_adapter, tiny_model


@pytest.fixture(scope="session")
def engine(tiny_tokenizer: Any) -> FocusEngine:
    """Random weights, one token a byte, chunks of 64, a context of 4,096."""
    model = tiny_model("llama", vocab_size=len(tiny_tokenizer), max_position_embeddings=4096)
    adapter = random_adapter(model)
    return FocusEngine(BaseModel(model, tiny_tokenizer, "tiny"), adapter, FocusConfig(chunk_size=64))


@pytest.fixture
def longbench_folder(tmp_path: Path) -> Path:
    """Two rows each of qasper, gov_report and trec, and the two tables of the benchmark."""
    folder = tmp_path / "longbench"
    prompts = {
        "qasper": "Read. {context}\n\nQuestion: {input}\n\nAnswer:",
        "gov_report": "You get a report. Sum it up.\n\nReport:\n{context}\n\nNow sum it up.\n\nSummary:",
        "trec": "Tell the type.\n\n{context}\n{input}",
    }
    write_json(folder / "config" / "dataset2prompt.json", prompts)
    write_json(folder / "config" / "dataset2maxlen.json", {"qasper": 8, "gov_report": 12, "trec": 4})
    for task in prompts:
        write_lines(folder / f"{task}.jsonl", [longbench_row(task, number) for number in range(2)])
    return folder
