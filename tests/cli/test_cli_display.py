"""What the terminal shows of an answer's sources."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from focusdoc import Document, Source
from focusdoc.cli import display

DOCUMENT = Document.from_text("One. Two. Three.", {"name": "counted"})


def shown(monkeypatch: pytest.MonkeyPatch, scores: list[float], **given: Any) -> str:
    written = StringIO()
    monkeypatch.setattr(display, "output", Console(file=written, width=80))
    sources = [Source(1, 0, 4, f"passage {score}", score, 0, "counted") for score in scores]
    display.show_sources(sources, [DOCUMENT], **given)
    return written.getvalue()


def test_improbable_sources_of_a_reader_are_left_out_but_for_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, [0.04, 0.6, 0.07], by_reader=True)
    assert "passage 0.04" in lines
    assert "passage 0.6" in lines
    assert "passage 0.07" not in lines


def test_all_of_them_are_shown_in_full_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "passage 0.07" in shown(monkeypatch, [0.04, 0.6, 0.07], by_reader=True, whole=True)


def test_shares_of_attention_are_small_in_long_documents_and_all_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, [0.04, 0.03, 0.02]).count("of the attention") == 3
