"""The ``focusdoc`` command: its subcommands and error handling.

Each subcommand is a function in its own file, registered at the end of this one. None of these files imports torch or
transformers at the top, so that ``focusdoc --help`` and mistyped paths respond at once.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from focusdoc import __version__
from focusdoc.cli.adapter import adapter
from focusdoc.cli.ask import ask
from focusdoc.cli.calibrate import calibrate
from focusdoc.cli.chat import chat
from focusdoc.cli.display import errors, show_error
from focusdoc.cli.eval import evaluate, report
from focusdoc.cli.explain import explain
from focusdoc.cli.info import info
from focusdoc.cli.models import models
from focusdoc.cli.read import read
from focusdoc.cli.serve import serve
from focusdoc.cli.store import store
from focusdoc.cli.train import train
from focusdoc.errors import FocusdocError

#: Exit code of a user error: an option, a file, a question.
MISTAKE = 2
#: Exit code of a command stopped by Ctrl-C: 128 + SIGINT, as shells expect.
INTERRUPTED = 130


class _Commands(TyperGroup):
    """Reports the errors of all commands as one sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # here, where a broken pipe is still caught
            return result
        except FocusdocError as error:
            show_error(error)
            raise typer.Exit(MISTAKE) from None
        except KeyboardInterrupt:
            # On a terminal, end the line of the partial answer or of the prompt.
            errors.print("\nStopped." if sys.stdout.isatty() else "Stopped.")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # The reader (head, less) has exited; without this, Python would fail again when it flushes at exit.
            with contextlib.suppress(OSError, io.UnsupportedOperation):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a plain traceback, whose locals cannot show a password
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Begin with: focusdoc ask book.pdf 'Who wrote the letter?'",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"focusdoc {__version__}")
        raise typer.Exit


@app.callback()
def focusdoc(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Ask questions of documents far longer than a language model's context.

    A document is read once into a memory; every answer comes with the passages it was taken from.
    """


app.command(epilog="For example: focusdoc ask letters.pdf 'Who wrote the first letter?' --max-new-tokens 40")(ask)
app.command(epilog="For example: focusdoc chat letters.pdf, or with questions from a file: ... < questions.txt")(chat)
app.command(epilog="For example: focusdoc read archive/, then focusdoc ask archive/1923.pdf 'Who won?'")(read)
app.command(epilog="For example: focusdoc info letters.pdf, or for programs: focusdoc info letters.pdf --json")(info)
app.command(epilog="For example: focusdoc train --data books/ --data questions.jsonl --output runs/mine")(train)
app.command(epilog="For example: focusdoc explain letters.pdf 'Who wrote the first letter?' --html first.html")(explain)
app.command(
    epilog="For example: focusdoc serve --port 8000, then the openai package with base_url=http://127.0.0.1:8000/v1"
)(serve)
app.command(epilog="For example: focusdoc report runs/ --output docs/report")(report)
app.command(epilog="For example: focusdoc calibrate --model ./my-model")(calibrate)
app.add_typer(evaluate, name="eval")
app.add_typer(adapter, name="adapter")
app.add_typer(store, name="store")
app.add_typer(models, name="models")


def main() -> None:
    """Run the command line; the entry point of the ``focusdoc`` script."""
    for stream in (sys.stdout, sys.stderr):
        # Print a question mark for characters that the terminal cannot encode.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app(prog_name="focusdoc")
