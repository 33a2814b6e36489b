"""Mistakes: one sentence, exit code 2, no traceback, nothing on standard output."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_samples import CONTEXT, Run, pdf

from focusdoc.cli.display import in_options


def assert_one_sentence(result: object, *words: str) -> None:
    """The command ended as it should after a mistake, and its one sentence holds all of `words`."""
    code, stdout, stderr = (getattr(result, name) for name in ("exit_code", "stdout", "stderr"))
    assert (code, stdout) == (2, ""), stderr
    assert stderr.startswith("Error: ")
    assert len(stderr.splitlines()) == 1
    assert "Traceback" not in stderr
    for word in words:
        assert word in stderr


FILES: dict[str, tuple[str, Callable[[Path], object], list[str]]] = {
    "missing": ("missing.txt", lambda path: None, ["no file", "missing.txt"]),
    "directory": ("folder", lambda path: path.mkdir(), ["directory"]),
    "empty": ("empty.txt", lambda path: path.write_bytes(b""), ["empty"]),
    "binary": ("binary.txt", lambda path: path.write_bytes(bytes(range(256)) * 9), ["binary"]),
    "invalid UTF-8": ("latin.txt", lambda path: path.write_bytes(b"Stra\xdfe und mehr"), ["UTF-8", "iconv"]),
    "encrypted": ("s.pdf", lambda path: path.write_bytes(pdf(["Secret"], password="x")), ["encrypted", "--password"]),
    "scanned": ("scan.pdf", lambda path: path.write_bytes(pdf(["", ""])), ["no text", "OCR"]),
    "truncated": ("cut.pdf", lambda path: path.write_bytes(pdf(["Words"])[:200]), ["damaged"]),
}


@pytest.mark.parametrize("command", ["ask", "chat", "info"])
@pytest.mark.parametrize("kind", FILES)
def test_files(run: Run, tmp_path: Path, command: str, kind: str) -> None:
    name, make, words = FILES[kind]
    make(tmp_path / name)
    assert_one_sentence(run(command, tmp_path / name, *(["What?"] if command == "ask" else [])), *words)


def test_passwords(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.pdf"
    path.write_bytes(pdf(["Secret"], password="open sesame"))
    assert_one_sentence(run("info", path, "--password", "guess"), "password is wrong")
    assert_one_sentence(run("info", path, "--password", "-"), "terminal")
    assert run("info", path, "--password", "open sesame").exit_code == 0
    monkeypatch.setenv("FOCUSDOC_PASSWORD", "open sesame")
    assert run("info", path).exit_code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-new-tokens", "0"], ["--max-new-tokens is 0", "at least 1"]),
        (["--max-new-tokens", "-1"], ["--max-new-tokens is -1"]),
        (["--chunk-size", "0"], ["--chunk-size is 0"]),
        (["--temperature", "-1"], ["temperature is -1"]),
        (["--top-p", "2"], ["--top-p is 2"]),
        (["--model", "/there/is/no/model"], ["/there/is/no/model"]),
    ],
)
def test_options(run: Run, book: Path, options: list[str], words: list[str]) -> None:
    assert_one_sentence(run("ask", book, "What?", *options), *words)


def test_an_unknown_option_and_a_wrong_type_are_usage_errors(run: Run, book: Path) -> None:
    for options in (["--chunks", "3"], ["--max-new-tokens", "many"]):
        result = run("ask", book, "What?", *options)
        assert (result.exit_code, result.stdout) == (2, "")
        assert options[0] in result.stderr


@pytest.mark.parametrize(
    ("question", "options", "words"),
    [
        ("What?", ["--chunk-size", str(CONTEXT)], ["--chunk-size", "smaller"]),
        ("What?", ["--max-new-tokens", str(CONTEXT)], ["--max-new-tokens"]),
        ("What? " * 500, [], ["question", "local window"]),
        ("What?", ["--adapter", "none", "--paper"], ["no adapter", "--adapter FOLDER"]),
        ("What?", ["--adapter", "/there/is/no/adapter"], ["no adapter at"]),
        ("What?", ["--dtype", "float7"], ["float7"]),
        ("  ", [], ["question is empty"]),
        ("caf\udce9", [], ["UTF-8"]),
    ],
)
def test_questions_and_models(
    run: Run, book: Path, tiny: list[str], question: str, options: list[str], words: list[str]
) -> None:
    assert_one_sentence(run("ask", book, question, *tiny, *options), *words)


def test_no_adapter_is_found_out_before_reading(run: Run, book: Path, tiny_folder: Path) -> None:
    result = run("ask", book, "What?", "--model", tiny_folder, "--paper")
    assert_one_sentence(result, "has no adapter")


def test_messages_name_the_options() -> None:
    message = "'my chunk_size.txt' is encrypted; give its password (password=...). top_k is -1; chunk_size"
    expected = (
        "'my chunk_size.txt' is encrypted; give its password with --password, or in FOCUSDOC_PASSWORD. "
        "--top-k is -1; --chunk-size"
    )
    assert in_options(message) == expected
    assert not re.search("allow_untrained|adapter=", in_options("pass adapter=<folder>, or x"))
