"""`focusdoc chat`: many questions over one reading."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_samples import Run

from focusdoc.engine import FocusEngine


def test_piped_questions_are_answered_over_one_reading(
    run: Run, book: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = []
    read = FocusEngine.read
    monkeypatch.setattr(FocusEngine, "read", lambda *args, **kw: readings.append(1) or read(*args, **kw))
    questions = "Who counts?\n\nWhat is counted?\n"
    result = run("chat", book, *tiny, "--max-new-tokens", 6, input=questions)
    assert result.exit_code == 0, result.stderr
    assert readings == [1]
    first, second = result.stdout.split("> What is counted?\n")
    assert re.search(r"> Who counts\?\n[!-~]{6}\n\nSources\n1\. ", first)
    assert re.match(r"[!-~]{6}\n\nSources\n1\. ", second)
    assert "6 of the answer; first token" in second


def test_several_documents_in_one_chat(run: Run, book: Path, tmp_path: Path, tiny: list[str]) -> None:
    other = tmp_path / "other.txt"
    other.write_text("Another book. " * 20)
    result = run("chat", book, other, *tiny, "--max-new-tokens", 2, input="Who counts?\n/sources\n")
    assert result.exit_code == 0, result.stderr
    assert "book.txt, other.txt" in result.stdout
    assert "other.txt, character" in result.stdout


def test_a_document_and_the_questions_cannot_both_come_from_standard_input(run: Run, tiny: list[str]) -> None:
    result = run("chat", "-", *tiny, input="Text or question?\n")
    assert result.exit_code == 2
    assert "questions from standard input" in result.stderr


def test_commands(run: Run, book: Path, tiny: list[str]) -> None:
    lines = ["/sources", "/help", "/what", "Who?", "/sources", "/quit", "Not asked any more?"]
    result = run("chat", book, *tiny, "--max-new-tokens", 2, input="\n".join(lines))
    assert result.exit_code == 0, result.stderr
    assert "There is no answer yet." in result.stdout
    assert "/sources  show the passages" in result.stdout
    assert "no command /what" in result.stderr
    assert result.stdout.count("Sources\n") == 2
    assert "Not asked" not in result.stdout


def test_a_question_that_fails_does_not_end_the_chat(run: Run, book: Path, tiny: list[str]) -> None:
    questions = b"What? " * 500 + b"\ncaf\xe9?\nWho counts?\n"
    result = run("chat", book, *tiny, "--max-new-tokens", 2, input=questions)
    assert result.exit_code == 2
    assert "local window" in result.stderr
    assert "UTF-8" in result.stderr
    assert "2 of the answer" in result.stdout


def test_ctrl_c_ends_one_answer_only(run: Run, book: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = FocusEngine.stream
    before = signal.getsignal(signal.SIGINT)

    def interrupted(self: FocusEngine, memory: object, question: str, **kw: object) -> Iterator[str]:
        for count, piece in enumerate(stream(self, memory, question, **kw)):  # type: ignore[arg-type]
            yield piece
            if count == 3 and question == "First?":
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(FocusEngine, "stream", interrupted)
    result = run("chat", book, *tiny, "--max-new-tokens", 2000, input="First?\n/quit\n")
    assert result.exit_code == 0, result.stderr
    assert "The answer was stopped." in result.stderr
    assert "4 of the answer" in result.stdout
    assert signal.getsignal(signal.SIGINT) is before
