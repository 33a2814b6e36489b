"""The command as a process of its own: start, Ctrl-C, pipes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import focusdoc

FOCUSDOC = [sys.executable, "-m", "focusdoc"]


def test_help_names_the_commands_and_is_fast() -> None:
    seconds = []
    for _ in range(2):  # the first time compiles and fills the disk's cache
        begun = time.perf_counter()
        done = subprocess.run([*FOCUSDOC, "--help"], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - begun)
    assert {"ask", "chat", "info", "calibrate"} <= set(done.stdout.split())
    assert min(seconds) < 2.0  # 0.2 s on a machine with nothing else to do


@pytest.mark.parametrize("arguments", [["--help"], ["ask", "missing.txt", "What?"], ["--version"]])
def test_heavy_libraries_are_not_imported_in_vain(arguments: list[str]) -> None:
    code = (
        "import atexit, sys; atexit.register(lambda: print({'torch', 'transformers', 'numpy'} & set(sys.modules)))\n"
        f"sys.argv = ['focusdoc', *{arguments!r}]\nfrom focusdoc.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


def test_version() -> None:
    done = subprocess.run([*FOCUSDOC, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"focusdoc {focusdoc.__version__}\n"


def test_ctrl_c_stops_a_long_answer(book: Path, tiny: list[str]) -> None:
    command = [*FOCUSDOC, "ask", str(book), "What?", *tiny, "--max-new-tokens", "60000"]
    # A shell's background job ignores SIGINT, and its children would inherit that.
    code = f"import os, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv({command[0]!r}, {command!r})"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.read(3)  # the answer has begun
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    assert stderr.decode().splitlines()[-1] == "Stopped."
    assert b"Traceback" not in stderr


@pytest.mark.skipif(os.name == "nt", reason="pipes break otherwise there")
def test_a_reader_that_leaves_is_no_error(book: Path) -> None:
    process = subprocess.Popen([*FOCUSDOC, "info", str(book)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, stderr = process.communicate(timeout=60)
    assert stderr == b""
    assert process.returncode == 1
