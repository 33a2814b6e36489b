"""What the terminal shows: progress, answers, sources, numbers.

Documents and answers are shown as plain text: nothing in them is taken for rich's markup, and control characters,
with which a text could command the terminal, are left out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from focusdoc.documents import Document
from focusdoc.terminal import plain

if TYPE_CHECKING:
    from focusdoc.decoding.answer import Answer, Source

#: Answers and results.
output = Console(highlight=False)
#: Progress, notes and errors.
errors = Console(stderr=True, highlight=False)

#: A passage that is less probable than this to hold the answer is noise to a reader of the terminal.
_LEAST = 0.1
#: A quoted passage is cut after this many lines.
_PASSAGE_LINES = 3
_INDENT = "   "
#: Said instead of the seconds that reading took.
KNOWN = "known document, nothing to read"
_MORE = " …"


def write(text: str) -> None:
    """Put a piece of an answer on standard output at once."""
    sys.stdout.write(plain(text))
    sys.stdout.flush()


def show_doubt(answer: Answer) -> None:
    """Say so, where the documents most likely do not tell what was asked."""
    if answer.found is False:
        sure = f"{answer.confidence:.0%} sure that it does"
        output.print(Text(f"The text most likely does not tell this ({sure}); the answer is a guess.", style="yellow"))


def show_steps(answer: Answer) -> None:
    """Print what had to be looked up before the question could be."""
    for question, known in answer.steps:
        output.print(Text(f"Looked up first: {question} {known}", style="dim"))


def show_sources(
    sources: Sequence[Source], documents: Sequence[Document], *, whole: bool = False, by_reader: bool = False
) -> None:
    """Print where an answer came from: rank, place, share of the attention, and the passage.

    Args:
        documents: those that were asked, to tell which of them a passage is from and how far into it.
        whole: print passages in full, and not their first lines.
        by_reader: their scores are probabilities, as they are where a reader writes; but for the first, the improbable
            are left out unless `whole`.
    """
    if by_reader and not whole:
        sources = [source for rank, source in enumerate(sources) if rank == 0 or source.score >= _LEAST]
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
    """Where a passage begins: its page, or how far into the text where there are no pages; of several documents, in
    which of them."""
    document = next(document for document in documents if document.name == source.document)
    where = f"character {source.start:,} ({source.start / len(document.text):.0%} into the text)"
    if document.has_pages:
        where = f"{document.unit} {source.page:,}"
        if source.page_label not in (None, str(source.page)):
            printed = "printed " if document.unit == "page" else ""
            where += f" ({printed}{plain(source.page_label)})"
    return where if len(documents) == 1 else f"{plain(document.name)}, {where}"


def show_totals(answer: Answer, read_seconds: float | None, *, known: bool = False) -> None:
    """Print one line of tokens and seconds.

    Args:
        read_seconds: how long the document took to read; None where an earlier question told it.
        known: the document came from the store.
    """
    usage, timings = answer.usage, answer.timings
    chunks = "1 chunk" if usage.num_chunks == 1 else f"{usage.num_chunks:,} chunks"
    parts = [
        f"{usage.document_tokens:,} document tokens in {chunks}",
        f"{usage.prompt_tokens:,} of the question, {usage.completion_tokens:,} of the answer",
    ]
    if read_seconds is not None:
        parts.append(KNOWN if known else f"read in {read_seconds:.1f} s")
    parts.append(f"first token after {timings.first_token:.1f} s")
    if usage.completion_tokens > 1 and timings.decode > 0:
        parts.append(f"then {(usage.completion_tokens - 1) / timings.decode:.1f} tokens/s")
    output.print(Text("; ".join(parts) + ".", style="dim"), soft_wrap=not output.is_terminal)
    if answer.finish_reason == "length":
        note = f"The answer was cut off at --max-new-tokens {usage.completion_tokens}; give more to see the rest."
        errors.print(note, style="yellow", soft_wrap=True)
    elif answer.finish_reason == "cancelled":
        errors.print("The answer was stopped.", style="yellow")
