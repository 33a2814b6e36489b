"""Long texts: where they come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from focusdoc.errors import EvaluationError
from focusdoc.evaluation.loading import long_texts


def test_texts_come_from_a_file_a_folder_or_python(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("Beta", encoding="utf-8")
    (tmp_path / "a.md").write_text("Alpha", encoding="utf-8")
    (tmp_path / "c.bin").write_bytes(b"\0")
    assert [text.text for text in long_texts(tmp_path)] == ["Alpha", "Beta"]
    assert [text.text for text in long_texts(tmp_path / "b.txt")] == ["Beta"]
    (reference,) = long_texts(None)
    assert len(reference.text) > 400_000


def test_nothing_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="has no text"):
        list(long_texts(tmp_path))
