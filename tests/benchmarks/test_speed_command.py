"""``python -m benchmarks.speed`` on a tiny model, its measurements made in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed import __main__ as command
from benchmarks.speed import machine
from benchmarks.speed.cases import Settings
from benchmarks.speed.measurements import do


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "in_child", do)
    monkeypatch.setattr(machine, "_ROWS", 64)
    monkeypatch.setattr(machine, "_STREAMED_BYTES", 1 << 16)
    monkeypatch.setenv("FOCUSDOC_STORE", "on")


def test_it_measures_reports_and_goes_on(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, book = tmp_path / "bench", tmp_path / "book.txt"
    book.write_text("The keeper of the lighthouse counts ships. " * 28, encoding="utf-8")
    tiny = ["--model", settings.model, "--adapter", settings.adapter, "--text", book, "--output", output]
    options = ["--lengths", "512", "--contenders", "focus,full,llama.cpp", "--steps", 2, "--chunk-sizes", 256]
    arguments = [str(each) for each in (*options, *tiny)]
    command.main(arguments)
    shown = capsys.readouterr().out
    assert "| focus, chunks of 256 | 512 |" in shown
    assert "| full | 512 |" in shown
    assert "- Not measured: llama.cpp: " in shown
    assert sorted(path.name for path in output.iterdir() if not path.name.startswith(".")) == [
        "bench.html", "bench.md", "config.json", "first_token.png", "memory.png", "rows.jsonl", "second_question.png",
        "token.png",
    ]  # fmt: skip
    before = [json.loads(line) for line in (output / "rows.jsonl").read_text().splitlines()]
    assert [row["task"] for row in before] == ["machine", "focus", "full"]
    command.main(arguments)
    assert [json.loads(line) for line in (output / "rows.jsonl").read_text().splitlines()] == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--lengths", "many"], ["'many'", "4K,16K"]),
        (["--contenders", "fast"], ["'fast'", "llama.cpp"]),
        (["--steps", "0"], ["--steps is 0"]),
        (["--full-limit", "far"], ["'far'"]),
        (["--far-length", "very"], ["'very'"]),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: list[str]
) -> None:
    output: Any = tmp_path / "bench"
    with pytest.raises(SystemExit, match="2"):
        command.main(["--output", str(output), *options])
    error = capsys.readouterr().err
    assert all(word in error for word in words)
    assert not output.exists()
