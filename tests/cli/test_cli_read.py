"""`focusdoc read`: folders of documents into the store, resumable, with what failed at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_samples import Run

from focusdoc.cli.read import FAILED
from focusdoc.cluster import ray_holders
from focusdoc.engine import FocusEngine
from holders_here import open_here

TEXTS = {name: f"The {name} counts ships at dawn. " * 40 for name in ("keeper", "baker", "miller")}


@pytest.fixture(autouse=True)
def _store(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOCUSDOC_STORE")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three documents, one of them in a subfolder, and a hidden file."""
    found = tmp_path / "archive"
    (found / "old").mkdir(parents=True)
    for name, place in zip(TEXTS, ("", "", "old"), strict=True):
        (found / place / f"{name}.txt").write_text(TEXTS[name])
    (found / ".index").write_bytes(b"\0")
    return found


def test_questions_about_a_folder_that_was_read_start_at_once(run: Run, folder: Path, tiny: list[str]) -> None:
    result = run("read", folder, *tiny)
    assert result.exit_code == 0, result.stderr
    assert "3 documents: 3 read, 0 known already, 0 failed; " in result.stdout
    asked = run("ask", folder / "old" / "miller.txt", "What?", *tiny, "--max-new-tokens", 1, "--json")
    assert json.loads(asked.stdout)["documents"][0]["tokens_encoded"] == 0


def test_what_is_known_is_not_read_again(run: Run, folder: Path, tiny: list[str]) -> None:
    run("read", folder / "keeper.txt", *tiny)
    found = json.loads(run("read", folder, folder / "baker.txt", *tiny, "--json").stdout)["documents"]
    assert {Path(each["file"]).stem: each["tokens_read"] == 0 for each in found} == {
        "baker": False,
        "keeper": True,
        "miller": False,
    }
    assert all(each["tokens"] > 1000 and each["bytes"] > 0 and each["error"] is None for each in found)


def test_what_fails_is_listed_at_the_end_and_the_rest_is_read(run: Run, folder: Path, tiny: list[str]) -> None:
    (folder / "empty.txt").write_text(" ")
    (folder / "picture.png").write_bytes(b"\x89PNG\0\0")
    result = run("read", folder, *tiny)
    assert result.exit_code == FAILED
    assert "5 documents: 3 read, 0 known already, 2 failed" in result.stdout
    for name in ("empty.txt", "picture.png"):
        assert f"{folder / name}: " in result.stderr


def test_stopped_it_goes_on_where_it_was(
    run: Run, folder: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = FocusEngine.read

    def stops(self: FocusEngine, document: Any, **options: Any) -> Any:
        if document.name == "keeper.txt":
            raise KeyboardInterrupt
        return read(self, document, **options)

    with monkeypatch.context() as patch:
        patch.setattr(FocusEngine, "read", stops)
        assert run("read", folder, *tiny).exit_code == 130
    assert "2 read, 1 known already" in run("read", folder, *tiny).stdout


@pytest.mark.parametrize("cluster", [[], ["--cluster", 2]], ids=["one process", "cluster"])
def test_a_folder_beyond_the_store_is_refused(
    run: Run, folder: Path, tiny: list[str], cluster: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_holders, "open_cluster", open_here)
    monkeypatch.setenv("FOCUSDOC_STORE_BYTES", "1000000")
    result = run("read", folder, *tiny, *cluster)
    assert result.exit_code == 2
    assert "FOCUSDOC_STORE_BYTES" in result.stderr


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: [folder / "none"], "There is no file or folder"),
        (lambda folder: [folder / "old" / ".."], None),
        (lambda folder: [(folder / "void"), (folder / "void").mkdir()][:1], "has no files"),
    ],
)
def test_paths(run: Run, folder: Path, tiny: list[str], make: Any, says: str | None) -> None:
    result = run("read", *make(folder), *tiny)
    assert (result.exit_code == 0) is (says is None)
    assert says is None or says in result.stderr


def test_without_a_store_nothing_is_read(
    run: Run, folder: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOCUSDOC_STORE", "off")
    result = run("read", folder, *tiny)
    assert result.exit_code == 2
    assert "unset FOCUSDOC_STORE" in result.stderr


def test_over_a_cluster(run: Run, folder: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_holders, "open_cluster", open_here)
    assert "3 read, 0 known" in run("read", folder, *tiny, "--cluster", 2).stdout
    assert "0 read, 3 known" in run("read", folder, *tiny, "--cluster", 3).stdout
