"""`focusdoc calibrate`, and a model without an adapter on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_samples import Run
from test_cli_mistakes import assert_one_sentence


@pytest.fixture(autouse=True)
def cache(own_cache: Path) -> Path:
    return own_cache / "heads"


def test_it_tells_how_well_the_heads_find_and_keeps_them(run: Run, tiny_folder: Path, cache: Path) -> None:
    result = run("calibrate", "--model", tiny_folder)
    assert result.exit_code == 0, result.stderr
    assert "planted facts at once" in result.stdout
    (file,) = cache.iterdir()
    told = json.loads(run("calibrate", "--model", tiny_folder, "--json").stdout)
    assert (told["model"], told["layers"]) == ("tiny", 2)
    assert told["heads"] == json.loads(file.read_text())["heads"]


def test_facts_may_be_planted_in_a_text_of_ones_own(run: Run, tiny_folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "novel.txt"
    text.write_text("The river rose in the night and nobody slept. " * 400)
    assert run("calibrate", "--model", tiny_folder, "--text", text).exit_code == 0
    text.write_text("Short.")
    assert_one_sentence(run("calibrate", "--model", tiny_folder, "--text", text), "calibration needs", "longer one")
    assert_one_sentence(run("calibrate", "--text", tmp_path / "missing.txt"), "missing.txt")


def test_a_model_without_an_adapter_is_calibrated_when_it_first_reads(
    run: Run, tiny_folder: Path, book: Path, cache: Path
) -> None:
    options = ["--model", tiny_folder, "--adapter", "none", "--max-new-tokens", "3"]
    assert run("ask", book, "What does the keeper count?", *options).exit_code == 0
    before = [file.stat().st_mtime_ns for file in cache.iterdir()]
    assert len(before) == 1
    assert run("ask", book, "Who counts ships?", *options).exit_code == 0
    assert [file.stat().st_mtime_ns for file in cache.iterdir()] == before
