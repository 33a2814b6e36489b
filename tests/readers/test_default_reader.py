"""The catalogue's reader is taken where it is installed and fits; else it is said why not."""

from __future__ import annotations

import pytest

from focusdoc.cli.loading import EngineOptions
from focusdoc.readers import opening
from focusdoc.readers.opening import default_reader

NAME = "Qwen2.5-Coder-1.5B-Instruct"


def set_up(monkeypatch: pytest.MonkeyPatch, *, installed: bool, free: int) -> None:
    monkeypatch.setattr(opening, "is_installed", lambda model: installed)
    monkeypatch.setattr(opening, "free_bytes", lambda device: free)


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOCUSDOC_READER")


def test_installed_and_with_room_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(monkeypatch, installed=True, free=16 * 10**9)
    assert default_reader() == (NAME, "")


def test_where_it_is_not_installed_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(monkeypatch, installed=False, free=16 * 10**9)
    assert default_reader()[1] == f"focusdoc models install {NAME.lower()} brings {NAME} (1.1 GB)"


def test_where_memory_is_short_the_bytes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(monkeypatch, installed=True, free=4 * 10**9)
    assert default_reader()[1] == f"4.0 GB of free memory are too few for {NAME}"


def test_a_machine_without_room_answers_by_the_small_model_and_warns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_up(monkeypatch, installed=True, free=4 * 10**9)
    assert opening.open_reader("auto") is None
    assert "too few for" in caplog.text
    monkeypatch.setenv("FOCUSDOC_READER", "none")
    caplog.clear()
    assert opening.open_reader("auto") is None
    assert caplog.text == ""


class TestCommandLine:
    def reader(self, given: str = "auto", model: str | None = None, paper: bool = False) -> str | None:
        return EngineOptions(model=model, paper=paper, reader=given)._reader()

    @pytest.fixture(autouse=True)
    def _installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        set_up(monkeypatch, installed=True, free=16 * 10**9)

    def test_auto_takes_it_and_says_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.reader() == NAME
        assert capsys.readouterr().err == ""

    def test_auto_says_why_the_small_model_writes(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        set_up(monkeypatch, installed=False, free=0)
        assert self.reader() is None
        said = " ".join(capsys.readouterr().err.split())
        assert f"which is worse: focusdoc models install {NAME.lower()} brings {NAME}" in said

    @pytest.mark.parametrize("other", [{"given": "none"}, {"model": "folder"}, {"paper": True}])
    def test_none_a_model_of_ones_own_and_paper_mode_write_by_themselves(
        self, other: dict[str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.reader(**other) is None  # type: ignore[arg-type]
        assert capsys.readouterr().err == ""

    def test_a_named_one_is_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.reader("http://localhost:1/v1", model="folder") == "http://localhost:1/v1"
        monkeypatch.setenv("FOCUSDOC_READER", "my-folder")
        assert self.reader() == "my-folder"
        monkeypatch.setenv("FOCUSDOC_READER", "none")
        assert self.reader() is None
