"""``focusdoc bench`` on a tiny model, its measurements made in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_samples import Run
from test_cli_mistakes import assert_one_sentence

from focusdoc.benchmark import child, machine


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "in_child", child.do)
    monkeypatch.setattr(machine, "_ROWS", 64)
    monkeypatch.setattr(machine, "_STREAMED_BYTES", 1 << 16)
    monkeypatch.setenv("FOCUSDOC_STORE", "on")


def test_bench_measures_reports_and_goes_on(run: Run, tiny: list[str], book: Path, tmp_path: Path) -> None:
    output = tmp_path / "bench"
    options = ["--lengths", "512", "--contenders", "focus,full,llama.cpp", "--steps", 2, "--text", book]
    done = run("bench", *options, "--chunk-sizes", 256, "--output", output, *tiny)
    assert done.exit_code == 0, done.stderr
    assert "| focus, chunks of 256 | 512 |" in done.stdout
    assert "| full | 512 |" in done.stdout
    assert "- llama.cpp: " in done.stdout
    assert sorted(path.name for path in output.iterdir() if not path.name.startswith(".")) == [
        "bench.json", "bench.md", "first_token.png", "memory.png", "second_question.png", "token.png",
    ]  # fmt: skip
    before = json.loads((output / "bench.json").read_text())["rows"]
    again = run("bench", *options, "--chunk-sizes", 256, "--output", output, *tiny)
    assert again.exit_code == 0
    assert json.loads((output / "bench.json").read_text())["rows"] == before


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
    run: Run, tmp_path: Path, options: list[str], words: list[str]
) -> None:
    output = tmp_path / "bench"
    assert_one_sentence(run("bench", "--output", output, *options), *words)
    assert not output.exists()
