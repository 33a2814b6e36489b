"""The measurements themselves, on a tiny model: that each gives what a row needs. How long they take is not tested."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.speed import machine
from benchmarks.speed.cases import MACHINE, REOPEN, Case, Settings
from benchmarks.speed.machine import PeakMemory
from benchmarks.speed.measurements import do, document_of, load_engine, passage, source_text
from benchmarks.speed.run import in_child, isolated
from focusdoc.engine import FocusEngine
from focusdoc.evaluation.generated import statement


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("FOCUSDOC_STORE", "on")
    return str(tmp_path / "store")


def measured(
    settings: Settings,
    task: str,
    length: int,
    chunk_size: int = 0,
    *,
    store: str | None = None,
    work: str | None = None,
) -> dict[str, Any]:
    return do(work or task, Case(task, length, chunk_size), settings, store)


@pytest.mark.parametrize("contender", ["focus", "int8", "look"])
def test_a_memory_mode_is_read_asked_twice_stored_and_reopened(contender: str, settings: Settings, store: str) -> None:
    row = measured(settings, contender, 300, 64, store=store)
    assert (row["tokens"], row["chunks"]) == (300, 5)
    assert row["kv_bytes_as_computed"] == 300 * 2 * 2 * 2 * 8 * 4  # keys and values, layers, KV heads, size, float32
    if contender == "int8":
        assert row["kv_bytes"] < row["kv_bytes_as_computed"] / 2
    elif contender == "focus":
        assert row["kv_bytes"] == row["kv_bytes_as_computed"]
    else:  # of the layers up to the highest head
        assert row["kv_bytes"] in (row["kv_bytes_as_computed"], row["kv_bytes_as_computed"] // 2)
    assert row["first_seconds"] > row["read_seconds"] > 0
    assert min(row["second_seconds"], row["token_seconds"], row["store_seconds"]) > 0
    assert row["process_bytes"] > row["peak_bytes"] >= 0
    reopened = measured(settings, contender, 300, 64, store=store, work=REOPEN)
    assert min(reopened["reopen_seconds"], reopened["reopened_first_seconds"], reopened["load_seconds"]) > 0


def test_what_the_store_did_not_keep_is_not_called_reopened(settings: Settings, store: str) -> None:
    assert measured(settings, "focus", 300, 64, store=store, work=REOPEN).keys() == {"load_seconds", "reopen_note"}


class TestFar:
    def test_a_pass_key_in_the_text_is_read_stored_reopened_and_asked_for(
        self, settings: Settings, store: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        row = measured(settings, "far", 900, 64, store=store)
        assert 900 < row["tokens"] < 1000
        assert row["process_bytes"] > row["peak_bytes"]
        found = measured(settings, "far", 900, 64, store=store, work=REOPEN)
        assert found["right"] == (str(found["pass_key"]) in found["answer"])
        assert min(found["reopen_seconds"], found["answer_seconds"], found["reopened_process_bytes"]) > 0
        monkeypatch.setattr(FocusEngine, "ask", lambda *_, **__: SimpleNamespace(
            text=f"It is {found['pass_key']}.", timings=SimpleNamespace(first_token=0.1)
        ))  # fmt: skip
        assert measured(settings, "far", 900, 64, store=store, work=REOPEN)["right"] is True

    def test_what_the_store_did_not_keep_is_not_asked(self, settings: Settings, store: str) -> None:
        assert "right" not in measured(settings, "far", 900, 64, store=store, work=REOPEN)

    def test_the_key_stands_between_words_and_is_always_the_same(self, settings: Settings) -> None:
        engine = load_engine(settings)
        case = Case("far", 2000)
        (document, key), (again, same) = (document_of(engine, settings, case) for _ in range(2))
        assert (document.text, key) == (again.text, same)
        assert key is not None
        before, _, after = document.text.partition(f" {statement(key)} ")
        assert len(before) > 100
        assert before + after == passage(engine.base.tokenizer, source_text(None), 2000)[0].text


def test_full_attention_reads_all_tokens(settings: Settings) -> None:
    row = measured(settings, "full", 300)
    assert row["tokens"] == 300
    assert row["first_seconds"] == row["read_seconds"] > 0
    assert row["token_seconds"] > 0


def test_the_papers_decoding_splits_the_document_into_chunks(settings: Settings) -> None:
    row = measured(settings, "paper", 4200)
    assert (row["tokens"], row["chunks"]) == (4200, 2)  # 2,048 tokens stay local, 2,152 are two chunks
    assert min(row["first_seconds"], row["token_seconds"]) > 0


def test_llama_cpp_gets_the_same_tokens_as_far_as_it_goes(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Any] = []

    class Server:
        def __init__(self, params: Any) -> None:
            asked.append(params)

        def handle_completions(self, request: dict[str, Any]) -> dict[str, Any]:
            asked.append(request)
            return {"timings": {"prompt_n": len(request["prompt"]), "prompt_ms": 1500, "predicted_per_token_ms": 20}}

    def params() -> SimpleNamespace:
        threads = [SimpleNamespace(n_threads=-1) for _ in range(2)]
        return SimpleNamespace(model=SimpleNamespace(path=""), cpuparams=threads[0], cpuparams_batch=threads[1])

    monkeypatch.setitem(sys.modules, "xllamacpp", SimpleNamespace(CommonParams=params, Server=Server))
    gguf = tmp_path / "tiny.gguf"
    gguf.write_bytes(b"GGUF")
    own = Settings(model=settings.model, steps=2, gguf=str(gguf))
    row = measured(own, "llama.cpp", 20_000)
    assert row["tokens"] == 16_384 - 2 - 8  # the model's own context, less the answer and some room
    assert (row["read_seconds"], row["token_seconds"]) == (1.5, 0.02)
    settings_given, request = asked
    assert settings_given.model.path == str(gguf)
    assert settings_given.n_ctx == 16_384
    assert settings_given.cpuparams.n_threads == torch.get_num_threads()
    assert (request["n_predict"], request["cache_prompt"]) == (3, False)


def test_the_machine_and_the_model_are_described(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_ROWS", 64)
    monkeypatch.setattr(machine, "_STREAMED_BYTES", 1 << 16)
    found = do(MACHINE, Case(MACHINE), settings, None)
    facts = found["facts"]
    # q, o: 32 x 32, k, v: 32 x 16, three of 32 x 64, in two layers; a multiplication and an addition each
    assert facts["linear_operations_per_token"] == 2 * 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    assert facts["candidate_bytes"] == 2 * (2 * 32 * 32 + 2 * 32 * 16) * 4
    assert (facts["chunk_size"], facts["context_length"], facts["dtype"]) == (64, 16_384, "float32")
    assert min(found["rates"].values()) > 0


class TestPassage:
    def test_is_as_long_as_asked_for_and_the_documents_tokens_are_its_ids(self, tiny_tokenizer: Any) -> None:
        document, ids = passage(tiny_tokenizer, "ab cd. " * 30, 100)
        assert len(ids) == 100
        assert document.text == ("ab cd. " * 30)[:100]  # one token a byte

    def test_repeats_a_text_that_is_too_short(self, tiny_tokenizer: Any) -> None:
        document, ids = passage(tiny_tokenizer, "abcde", 23)
        assert len(ids) == 23
        assert document.text == "abcde\n\nabcde\n\nabcde\n\nab"

    def test_is_the_python_reference_or_a_text_of_ones_own(self, tmp_path: Path) -> None:
        assert len(source_text(None)) > 400_000
        (tmp_path / "own.txt").write_text("my own text")
        assert source_text(str(tmp_path / "own.txt")) == "my own text"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux lets a process reset its peak memory")
def test_peak_memory_counts_what_was_let_go_again() -> None:
    torch.ones(64 << 20).sum()  # an earlier peak that must not count
    peak = PeakMemory(torch.device("cpu"))
    torch.ones(16 << 20).sum()  # 64 MiB
    assert 60 << 20 < peak.growth() < 160 << 20


def killed() -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def raised() -> dict[str, Any]:
    raise ValueError("unforeseen")


def left() -> dict[str, Any]:
    raise SystemExit(3)


class TestChild:
    def test_gives_an_error_of_ours_as_a_sentence(self) -> None:
        error = in_child(MACHINE, Case(MACHINE), Settings(model="/no/such/model"), None)["error"]
        assert "/no/such/model" in error
        assert "Error:" not in error

    @pytest.mark.parametrize(
        ("work", "error"),
        [(killed, "ended by signal 9"), (raised, "ValueError: unforeseen"), (left, "the process ended with 3")],
    )
    def test_that_dies_is_an_error_of_its_case(self, work: Callable[[], dict[str, Any]], error: str) -> None:
        assert error in isolated(work)["error"]
