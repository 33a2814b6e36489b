"""The options that the commands of ``focusdoc eval`` share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from focusdoc.errors import EvaluationError
from focusdoc.evaluation.settings import PASSAGES, WINDOW

_WHAT, _HOW, _RUN, _MODEL = "What is asked", "How it is answered", "The run", "The model"

Data = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="The folder with the benchmark's official files.", rich_help_panel=_WHAT, show_default=False
    ),
]
Tasks = Annotated[
    str | None,
    typer.Option(metavar="NAME,...", help="Official names; without it, the paper's tasks.", rich_help_panel=_WHAT),
]
Limit = Annotated[
    int | None,
    typer.Option(metavar="N", help="At most this many items of each task and length.", rich_help_panel=_WHAT),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Of generated items.", rich_help_panel=_WHAT)]
Lengths = Annotated[
    str | None,
    typer.Option(metavar="N,...", help="Lengths in tokens, such as 4K,16K,128K (K is 1,024).", rich_help_panel=_WHAT),
]
Order = Annotated[
    str,
    typer.Option(
        metavar="paper|official",
        help="Prompts with the context in front of the instruction where the authors have it there, or as published.",
        rich_help_panel=_WHAT,
    ),
]
Modes = Annotated[
    str,
    typer.Option(
        "--mode",
        metavar="NAME,...",
        help="focus, split, quoted, ask, read, look (ours), full, truncated, tail, streaming, paper, bm25, "
        "embedding; several are compared in one run.",
        rich_help_panel=_HOW,
    ),
]
ChunkSize = Annotated[
    int | None,
    typer.Option(metavar="TOKENS", help="Tokens of one chunk; without it, the adapter's own.", rich_help_panel=_HOW),
]
LocalWindow = Annotated[
    int,
    typer.Option(
        metavar="TOKENS", help="Tokens that are seen in full; also what truncation keeps.", rich_help_panel=_HOW
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(metavar="TOKENS", help="Cut longer prompts in the middle; 0 for never.", rich_help_panel=_HOW),
]
Prompt = Annotated[
    str | None,
    typer.Option(
        metavar="chat|plain",
        help="Ask in the model's chat format, or have bare text continued; without it, as the benchmark says.",
        rich_help_panel=_HOW,
    ),
]
QuoteTokens = Annotated[
    int | None,
    typer.Option(
        metavar="TOKENS",
        help="Of focus: passages that the model looks at are shown to it in at most this many tokens; 0 for none.",
        rich_help_panel=_HOW,
        show_default=False,
    ),
]
Reader = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|URL|none",
        help="Of read, bm25 and embedding: what writes the answer from the passages, as for focusdoc ask; none writes "
        "nothing, so that only the finding is measured.",
        rich_help_panel=_HOW,
        show_default=False,
    ),
]
ReaderModel = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What the endpoint of --reader calls its model.",
        rich_help_panel=_HOW,
        show_default=False,
    ),
]
Passages = Annotated[
    int,
    typer.Option(metavar="N", help="Of bm25 and embedding: passages for the reader at most.", rich_help_panel=_HOW),
]
Window = Annotated[
    int,
    typer.Option(
        metavar="CHARACTERS",
        help="Of bm25 and embedding: the width of passages, before they are widened to whole sentences.",
        rich_help_panel=_HOW,
    ),
]
#: Of every command; it has no default.
OUTPUT = typer.Option(
    "--output", metavar="DIR", help="Where the rows go, a folder for each mode.", rich_help_panel=_RUN
)
Resume = Annotated[bool, typer.Option("--resume", help="Leave out what has a row already.", rich_help_panel=_RUN)]
Retry = Annotated[
    bool, typer.Option("--retry", help="With --resume: ask again what ended in an error.", rich_help_panel=_RUN)
]
ShardOf = Annotated[
    str,
    typer.Option(
        "--shard", metavar="I/N", help="Do the I-th of N parts; focusdoc eval merge joins them.", rich_help_panel=_RUN
    ),
]
StoreAt = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Keep memories there, so that a document asked again is not read again; without it, nothing is kept.",
        rich_help_panel=_RUN,
        show_default=False,
    ),
]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of one run that do not depend on the benchmark; see the help of each."""

    mode: str
    output_folder: Path
    model: str | None
    adapter: str
    chunk_size: int | None
    local_window: int
    max_tokens: int | None = None
    prompt: str | None = None
    quote_tokens: int | None = None
    reader: str | None = None
    reader_model: str | None = None
    passages: int = PASSAGES
    window: int = WINDOW
    resume: bool = False
    retry: bool = False
    shard: str = "1/1"
    store: Path | None = None
    device: str = "auto"
    dtype: str = "auto"

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> RunOptions:
        """Those of a command's arguments that are options of a run."""
        return cls(**{each.name: given[each.name] for each in fields(cls) if each.name in given})

    @property
    def chat(self) -> bool | None:
        """Whether prompts are messages of a chat; None leaves it to the benchmark."""
        if self.prompt not in (None, "chat", "plain"):
            raise EvaluationError(f"--prompt is {self.prompt!r}; choose chat or plain.")
        return None if self.prompt is None else self.prompt == "chat"


def names_in(text: str | None) -> list[str]:
    """The names in ``a,b``."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def lengths_in(text: str) -> list[int]:
    """The token counts in ``4K,16384``."""
    try:
        lengths = [_tokens(name) for name in names_in(text)]
    except ValueError:
        lengths = []
    if not lengths or min(lengths) < 1:
        raise EvaluationError(f"The lengths are {text!r}; write them as 4096,16384 or 4K,16K.")
    return lengths


def _tokens(text: str) -> int:
    return int(text[:-1]) * 1024 if text[-1:] in "kK" else int(text)


def depths_in(text: str) -> list[float]:
    """The depths in ``0,0.5,1``."""
    try:
        return [float(name) for name in names_in(text)]
    except ValueError:
        raise EvaluationError(f"The depths are {text!r}; write them as 0,0.5,1.") from None


def share_in(text: str) -> tuple[float, float]:
    """The share in ``0.8:1``."""
    try:
        first, last = map(float, text.split(":"))
    except ValueError:
        first, last = 0.0, 0.0
    if not 0 <= first < last <= 1:
        raise EvaluationError(f"--questions is {text!r}; write it as FROM:TO, such as 0:0.8 for the first 80%.")
    return first, last


def check_order(order: str) -> None:
    """Refuse anything but the two orders of a prompt."""
    if order not in ("paper", "official"):
        raise EvaluationError(f"--order is {order!r}; choose paper or official.")


def check_lengths(value: int, name: str) -> None:
    """Refuse a count below 1."""
    if value < 1:
        raise EvaluationError(f"--{name} is {value}; it must be at least 1.")
