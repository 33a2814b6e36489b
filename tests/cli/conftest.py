"""Fixtures of the command line's tests: a tiny model, a small document, and a way to run the command."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_samples import Run, save_tiny_model, save_untrained_adapter
from typer.testing import CliRunner, Result

from focusdoc.cli.main import app


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the tiny model; made once."""
    return save_tiny_model(tmp_path_factory.mktemp("cli") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> list[str]:
    """The options that choose the tiny model and its adapter."""
    adapter = save_untrained_adapter(tiny_folder, tiny_folder.parent / "adapter")
    return ["--model", str(tiny_folder), "--adapter", str(adapter)]


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A text of 1,200 characters, which are as many tokens of the tiny model."""
    path = tmp_path / "book.txt"
    path.write_text("The keeper of the lighthouse counts ships. " * 28, encoding="utf-8")
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run(*arguments, input=...)`: the command in this process, with output as wide as a usual terminal's."""
    monkeypatch.delenv("FOCUSDOC_PASSWORD", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")

    def _run(*arguments: object, input: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=input)

    return _run
