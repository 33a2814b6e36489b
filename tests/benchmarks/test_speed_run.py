"""A run: everything on disk as it comes, resumable, on one machine, with failures that do not end it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed import run as speed
from benchmarks.speed.cases import MACHINE, Case, Options, Settings
from benchmarks.speed.run import busy_machine, missing_contenders, run
from focusdoc.errors import EvaluationError
from focusdoc.evaluation.results import read_config, read_rows_of

SETTINGS = Settings(steps=4)
OPTIONS = Options(lengths=[4096], contenders=["focus", "full"], chunk_sizes=[1024])
FACTS: dict[str, Any] = {"adapter": "abc", "chunk_size": 1024, "processor": "a CPU"}


class Children:
    """A stand-in for child processes: notes what they were asked, and answers from a table."""

    def __init__(self, **answers: Callable[[Case], dict[str, Any]]) -> None:
        self.asked: list[str] = []
        self.stores: list[Path] = []
        self.facts = dict(FACTS)
        self._answers = answers

    def __call__(self, work: str, case: Case, settings: Settings, store: str | None) -> dict[str, Any]:
        self.asked.append(work)
        if work == MACHINE:
            return {"facts": self.facts, "rates": {"operations": 1.0, "bandwidth": 1.0}}
        if store is not None:
            self.stores.append(Path(store))
            assert self.stores[-1].is_dir()
        if work in self._answers:
            return self._answers[work](case)
        return {"reopen_seconds": 0.5} if work == "reopen" else {"read_seconds": 1.0}


def silent(sentence: str) -> None:
    """Nothing is told."""


def rows_in(output: Path) -> dict[str, dict[str, Any]]:
    """The rows on disk of all contenders, by contender, length and chunk size."""
    return {f"{row['task']}/{row['id']}": row for row in read_rows_of(output) if row["task"] != MACHINE}


def test_every_measurement_is_a_row_and_what_was_stored_is_reopened_and_removed(tmp_path: Path) -> None:
    children = Children()
    assert run(OPTIONS, SETTINGS, tmp_path / "out", start=children, notify=silent) == []
    assert children.asked == ["machine", "focus", "reopen", "full"]
    rows = rows_in(tmp_path / "out")
    assert rows.keys() == {"focus/4096/1024", "full/4096/0"}
    row = rows["focus/4096/1024"]
    assert row["facts"] == {"length": 4096, "chunk_size": 1024}
    assert (row["read_seconds"], row["reopen_seconds"]) == (1.0, 0.5)
    assert read_config(tmp_path / "out") == {"benchmark": "speed", **FACTS, "steps": 4}
    assert children.stores[0] == children.stores[1]
    assert not children.stores[0].exists()


def test_what_far_stored_is_recalled_by_another_child(tmp_path: Path) -> None:
    children = Children(reopen=lambda _: {"right": True})
    options = Options(lengths=[4096], contenders=["far"], far_length=9000)
    run(options, SETTINGS, tmp_path, start=children, notify=silent)
    assert children.asked == ["machine", "far", "reopen"]
    assert rows_in(tmp_path)["far/9000/1024"]["right"] is True


def test_what_was_measured_is_not_measured_again_nor_the_machines_rates(tmp_path: Path) -> None:
    run(OPTIONS, SETTINGS, tmp_path, start=Children(), notify=silent)
    first = (tmp_path / "rows.jsonl").read_text()
    children = Children()
    longer = Options(lengths=[4096, 8192], contenders=["full"])
    run(longer, SETTINGS, tmp_path, start=children, notify=silent)
    assert children.asked == ["machine", "full"]
    assert rows_in(tmp_path).keys() == {"focus/4096/1024", "full/4096/0", "full/8192/0"}
    more = (tmp_path / "rows.jsonl").read_text().removeprefix(first)
    assert [json.loads(line)["id"] for line in more.splitlines()] == ["8192/0"]


def test_rows_are_on_disk_before_the_next_case_begins(tmp_path: Path) -> None:
    def interrupted(case: Case) -> dict[str, Any]:
        assert list(rows_in(tmp_path)) == ["focus/4096/1024"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(OPTIONS, SETTINGS, tmp_path, start=Children(full=interrupted), notify=silent)
    children = Children()
    run(OPTIONS, SETTINGS, tmp_path, start=children, notify=silent)
    assert children.asked == ["machine", "full"]


def test_a_case_that_fails_is_told_does_not_end_the_run_and_is_tried_again(tmp_path: Path) -> None:
    told: list[str] = []
    failing = Children(focus=lambda _: {"error": "out of memory"})
    run(OPTIONS, SETTINGS, tmp_path, start=failing, notify=told.append)
    assert failing.asked == ["machine", "focus", "full"]
    assert rows_in(tmp_path)["focus/4096/1024"]["error"] == "out of memory"
    assert "focus at 4,096 tokens in chunks of 1,024 failed: out of memory" in told
    children = Children()
    run(OPTIONS, SETTINGS, tmp_path, start=children, notify=silent)
    assert "error" not in rows_in(tmp_path)["focus/4096/1024"]
    assert children.asked == ["machine", "focus", "reopen"]


def test_a_reopening_that_fails_leaves_the_rest_of_its_row(tmp_path: Path) -> None:
    run(OPTIONS, SETTINGS, tmp_path, start=Children(reopen=lambda _: {"error": "gone"}), notify=silent)
    row = rows_in(tmp_path)["focus/4096/1024"]
    assert (row["read_seconds"], row["reopen_note"]) == (1.0, "gone")


def test_results_of_another_machine_or_setting_are_not_mixed(tmp_path: Path) -> None:
    run(OPTIONS, SETTINGS, tmp_path, start=Children(), notify=silent)
    other = Children()
    other.facts["processor"] = "another CPU"
    with pytest.raises(EvaluationError, match="processor is 'a CPU' there and 'another CPU' here"):
        run(OPTIONS, SETTINGS, tmp_path, start=other, notify=silent)
    with pytest.raises(EvaluationError, match="steps is 4 there and 5 here"):
        run(OPTIONS, Settings(steps=5), tmp_path, start=Children(), notify=silent)


def test_a_model_that_cannot_be_loaded_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no such model"):
        run(OPTIONS, SETTINGS, tmp_path, start=lambda *_: {"error": "no such model"}, notify=silent)


def test_llama_cpp_is_left_out_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: None)
    assert "xllamacpp is not installed" in missing_contenders(SETTINGS)["llama.cpp"]
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: object())
    assert missing_contenders(SETTINGS) == {}
    assert "--gguf" in missing_contenders(Settings(model="mine"))["llama.cpp"]
    assert missing_contenders(Settings(model="mine", gguf="mine.gguf")) == {}
    assert missing_contenders(Settings(model="qwen2.5-coder-0.5b-instruct")) == {}  # the catalogue knows its file


def test_a_busy_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.3, 1.0, 1.0), raising=False)
    assert busy_machine() is None
    monkeypatch.setattr(os, "getloadavg", lambda: (3.5, 1.0, 1.0), raising=False)
    assert "3.5 on 2 cores" in str(busy_machine())
