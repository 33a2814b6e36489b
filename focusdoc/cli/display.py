"""Terminal output: progress, answers, sources, statistics.

Documents and answers are printed as plain text, without rich's markup and without control characters, which could
control the terminal.
"""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from focusdoc.documents import Document
from focusdoc.errors import FocusdocError
from focusdoc.terminal import plain

if TYPE_CHECKING:
    from focusdoc.decoding.answer import Answer, Source

#: Settings in the library's messages that are options here. Quoted text is matched first, so that it stays as it is.
_SETTING = re.compile(
    r"'[^']*'|\b(chunk_size|max_new_tokens|top_p|top_k|repetition_penalty|learning_rate|max_tokens|max_chunks"
    r"|min_chunk_size|max_chunk_size|save_every|eval_every|candidate_positions|memory_dtype|quote_tokens|reader_model)\b"
)
_REMEDIES = (
    ("(password=...)", "with --password, or in FOCUSDOC_PASSWORD"),
    ("reader_model=", "reader_model"),
    ("pass adapter=<folder>", "pass --adapter FOLDER"),
    (", or FocusConfig(allow_untrained=True) for experiments", ""),
    ("shorten it, or raise local_window", "shorten it"),
    ("lower chunk_size, prompt_window or", "lower chunk_size or"),
    ("pass tokenizer=, put", "put"),
    (", or use generate(input_ids)", ""),
    (" (to use the string itself as the document, call focusdoc.load_text)", ""),
)

#: Answers and results.
output = Console(highlight=False)
#: Progress, notes and errors.
errors = Console(stderr=True, highlight=False)

#: Passages whose probability of having the answer is below this are not shown.
_MIN_PROBABILITY = 0.1
#: Passages are truncated to this many lines.
_PASSAGE_LINES = 3
_INDENT = "   "
#: Printed instead of the reading time for a stored document.
KNOWN = "known document, nothing to read"
_MORE = " …"


def in_options(message: str) -> str:
    """A message of the library with settings and remedies rewritten for the command line."""
    for in_python, here in _REMEDIES:
        message = message.replace(in_python, here)
    return _SETTING.sub(lambda found: "--" + found[1].replace("_", "-") if found[1] else found[0], message)


def say(text: str, style: str | None = None) -> None:
    """Print a line of results on standard output, without wrapping it."""
    output.print(text, style=style, markup=False, soft_wrap=True)


def note(text: str, style: str | None = None) -> None:
    """Print a line on standard error, without wrapping it."""
    errors.print(text, style=style, markup=False, soft_wrap=True)


def show_error(error: FocusdocError, where: str = "Error") -> None:
    """Print an error of the library on standard error, in terms of the command line."""
    note(plain(f"{where}: {in_options(str(error))}"), "red")


def show_left_out(name: str, sentences: Iterable[str]) -> None:
    """Print on standard error what is in a document but missing from its text."""
    for sentence in sentences:
        note(f"Note: {plain(f'{name}: {sentence}')}.", "yellow")


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str]) -> None:
    """Print a table; the columns in `right` are aligned there. Without a terminal, cells are not wrapped."""
    table = Table(box=None, pad_edge=False)
    for name, *cells in zip(header, *rows, strict=True):
        width = None if output.is_terminal else max(map(len, (name, *cells)))
        justify: Literal["left", "right"] = "right" if name in right else "left"
        table.add_column(Text(plain(name)), justify=justify, overflow="fold", min_width=width)
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    output.print(table, soft_wrap=not output.is_terminal)


def about(document: Document) -> dict[str, Any]:
    """A document's description for ``--json``."""
    return {
        "name": document.name,
        "format": document.metadata.get("format"),
        "unit": document.unit,
        "pages": len(document.pages) if document.has_pages else None,
        "characters": len(document.text),
    }


def markup_free(text: str) -> str:
    """A text escaped for rich's status and columns, which parse markup."""
    return escape(plain(text))


def count_of(number: int, what: str = "document") -> str:
    """A number with its noun."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


@contextmanager
def stopped_by_ctrl_c(notice: str = "") -> Iterator[threading.Event]:
    """Inside the block a Ctrl-C prints `notice` and sets the yielded event; the second one interrupts as usual."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only it may set signal handlers
        yield stopped
        return

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if stopped.is_set():
            signal.default_int_handler(number, frame)
        stopped.set()
        if notice:
            note(notice, "yellow")

    previous = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, previous)


def write(text: str) -> None:
    """Write text to standard output and flush."""
    sys.stdout.write(plain(text))
    sys.stdout.flush()


def show_remarks(answer: Answer) -> None:
    """Print the questions that were answered first, and a warning if the documents probably do not have the answer."""
    for question, known in answer.steps:
        output.print(Text(f"Looked up first: {question} {known}", style="dim"))
    if answer.found is False:
        doubt = f"The text may not say this (probability {answer.confidence:.0%}); the answer is a guess."
        output.print(Text(doubt, style="yellow"))


def show_sources(
    sources: Sequence[Source], documents: Sequence[Document], *, whole: bool = False, by_reader: bool = False
) -> None:
    """Print the sources of an answer about `documents`: rank, place, score and passage.

    Args:
        whole: print full passages instead of their first lines.
        by_reader: the scores are probabilities (with a reader) instead of shares of the attention; improbable passages
            except for the first are skipped unless `whole`.
    """
    if by_reader and not whole:
        sources = [source for rank, source in enumerate(sources) if rank == 0 or source.score >= _MIN_PROBABILITY]
    if not sources:
        return
    unit = "probable" if by_reader else "of the attention"
    output.print(Text("Sources", style="bold"))
    for rank, source in enumerate(sources, start=1):
        line = Text.assemble((f"{rank}. ", "bold"))
        line.append(place(source, documents), style="cyan")
        line.append(f"  {source.score:.0%} {unit}", style="dim")
        output.print(line)
        passage = Text(f"“{' '.join(plain(source.text).split())}”")
        lines = list(passage.wrap(output, max(20, min(output.width, 100) - len(_INDENT) - len(_MORE))))
        if len(lines) > _PASSAGE_LINES and not whole:
            lines = lines[:_PASSAGE_LINES]
            lines[-1].rstrip()
            lines[-1].append(_MORE)
        for part in lines:
            output.print(Text(_INDENT).append_text(part), soft_wrap=True)


def place(source: Source, documents: Sequence[Document]) -> str:
    """Where a passage starts: its page, or the position in a text without pages; with the name if there are several."""
    document = next(document for document in documents if document.name == source.document)
    where = f"character {source.start:,} ({source.start / len(document.text):.0%} into the text)"
    if document.has_pages:
        where = f"{document.unit} {source.page:,}"
        if source.page_label not in (None, str(source.page)):
            printed = "printed " if document.unit == "page" else ""
            where += f" ({printed}{plain(source.page_label)})"
    return where if len(documents) == 1 else f"{plain(document.name)}, {where}"


def show_totals(answer: Answer, read_seconds: float | None, *, known: bool = False) -> None:
    """Print a line with token counts and times.

    Args:
        read_seconds: how long the documents took to read; None if that was printed before.
        known: the documents were in the store.
    """
    usage, timings = answer.usage, answer.timings
    parts = [
        f"{usage.document_tokens:,} document tokens in {count_of(usage.num_chunks, 'chunk')}",
        f"{usage.prompt_tokens:,} of the question, {usage.completion_tokens:,} of the answer",
    ]
    if read_seconds is not None:
        parts.append(KNOWN if known else f"read in {read_seconds:.1f} s")
    parts.append(f"first token after {timings.first_token:.1f} s")
    if usage.completion_tokens > 1 and timings.decode > 0:
        parts.append(f"then {(usage.completion_tokens - 1) / timings.decode:.1f} tokens/s")
    output.print(Text("; ".join(parts) + ".", style="dim"), soft_wrap=not output.is_terminal)
    if answer.finish_reason == "length":
        note(
            f"The answer was truncated at --max-new-tokens {usage.completion_tokens}; raise it to see the rest.",
            "yellow",
        )
    elif answer.finish_reason == "cancelled":
        note("The answer was stopped.", "yellow")
