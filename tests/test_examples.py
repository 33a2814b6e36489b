"""The examples run, on a tiny random model; their answers are nonsense then."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import focusdoc

ROOT = Path(__file__).parents[1]


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def book_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example, with a tiny model in the place of the default one."""
    samples = _load(ROOT / "tests" / "cli" / "cli_samples.py")
    folder = samples.save_tiny_model(tmp_path / "tiny")
    config = focusdoc.FocusConfig(chunk_size=1024, allow_untrained=True)
    engine = focusdoc.FocusEngine.from_pretrained(folder, config=config)
    monkeypatch.setattr(focusdoc.FocusEngine, "from_pretrained", lambda reader: engine)
    return _load(ROOT / "examples" / "qa_over_book.py")


def test_the_reference_is_one_book_with_a_page_for_each_topic(book_example: ModuleType) -> None:
    book = book_example.python_reference()
    assert len(book.text) > 300_000
    page = next(page for page in book.pages if page.label == "pass")
    assert book.text[page.start :].startswith('Topic: pass\n\nThe "pass" statement')
    words = ("nothing happens", "Division by zero raises", "binds more tightly than")
    assert all(word in book.text for word in words)


def test_three_questions_of_the_reference(book_example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    book_example.main(["--pages", "3"])
    printed = capsys.readouterr().out
    assert "only its first 3 pages" in printed
    for question in book_example.QUESTIONS:
        assert f"Q: {question}\nA: " in printed
    assert len(re.findall(r"\n   page \d \((?:assert|assignment|async)\), \d+%: ", printed)) >= 3
    assert len(re.findall(r"\n   48 tokens in [\d.]+ s, the first after ", printed)) == 3


def test_a_file_and_a_question(book_example: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("The keeper counts ships. " * 100)
    book_example.main([str(tmp_path / "book.txt"), "What is counted?"])
    assert "Q: What is counted?\nA: " in capsys.readouterr().out
    with pytest.raises(focusdoc.FocusdocError, match="no file"):
        book_example.main([str(tmp_path / "missing")])
