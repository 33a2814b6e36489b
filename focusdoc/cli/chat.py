"""``focusdoc chat``: read documents once, answer many questions."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from focusdoc.cli import options
from focusdoc.cli.ask import answer_question
from focusdoc.cli.dataclass_options import dataclass_options
from focusdoc.cli.display import KNOWN, note, say, show_error, show_sources, show_totals, stopped_by_ctrl_c
from focusdoc.cli.loading import AnswerOptions, EngineOptions, check_question, open_documents, read
from focusdoc.errors import ConfigError, FocusdocError
from focusdoc.terminal import plain

if TYPE_CHECKING:
    from focusdoc.decoding.answer import Answer

_PROMPT = "> "
_HELP = """Each line is a question about the documents; earlier questions and answers are not remembered.
/sources  show the passages behind the last answer in full
/help     show this text
/quit     quit (also Ctrl-D); Ctrl-C stops an answer"""


@dataclass_options(without=("overview",))
def chat(
    files: options.Files, *, answering: AnswerOptions, loading: EngineOptions, password: options.Password = None
) -> None:
    """Read one or several documents once, then answer questions from the terminal or a pipe."""
    if Path("-") in files:
        raise ConfigError("chat reads its questions from standard input; give the document as a file.")
    documents = open_documents(files, password)
    engine = loading.load()
    engine.check_ready()
    memories, seconds = read(engine, documents)
    names = plain(", ".join(document.name for document in documents))
    is_new = any(memory.tokens_encoded for memory in memories)
    summary = f"Read {names} in {seconds:.1f} s." if is_new else f"{names}: {KNOWN}."
    say(f"{summary} Ask a question; /help lists the commands.")
    answer: Answer | None = None
    failed = False
    for line in _lines():
        try:
            if line == "/quit":
                break
            elif line == "/help":
                say(_HELP)
            elif line == "/sources":
                if answer is None:
                    say("There is no answer yet.")
                else:
                    show_sources(answer.sources, documents, whole=True, by_reader=engine.reader is not None)
            elif line.startswith("/") and " " not in line:
                note(f"There is no command {plain(line)}; /help lists them.")
            else:
                question = check_question(line)
                with stopped_by_ctrl_c() as cancel:
                    answer = answer_question(engine, memories, question, answering, cancel=cancel)
                show_sources(answer.sources, documents, by_reader=engine.reader is not None)
                show_totals(answer, None)
        except FocusdocError as error:  # the next question may succeed
            failed = True
            show_error(error)
        except KeyboardInterrupt:  # a second Ctrl-C before the first took effect
            note("\nThe answer was stopped.", "yellow")
    if failed and not sys.stdin.isatty():
        raise typer.Exit(2)  # for scripts; on a terminal the error was shown


def _lines() -> Iterator[str]:
    """The non-empty lines of standard input, typed at a prompt, or piped and then echoed."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # editing and history for input()
        while True:
            try:
                line = input(_PROMPT)
            except EOFError:
                print()
                return
            if line.strip():
                yield line.strip()
    # Invalid UTF-8 then fails in `check_question` and not with a traceback.
    if reconfigure := getattr(sys.stdin, "reconfigure", None):
        reconfigure(errors="surrogateescape")
    for line in sys.stdin:
        if line.strip():
            say(f"{_PROMPT}{plain(line.strip())}")
            yield line.strip()
