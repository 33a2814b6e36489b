"""The options that commands share, each with its one sentence of help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_DOCUMENT, _ANSWER, _SAMPLING, _MODEL, _OUTPUT = "The document", "The answer", "Sampling", "The model", "Output"

_KINDS = "A PDF, text, web page, e-book, office file or e-mail; - is standard input."
File = Annotated[Path, typer.Argument(metavar="FILE", help=_KINDS, show_default=False)]
Files = Annotated[
    list[Path], typer.Argument(metavar="FILE", help=f"{_KINDS} Several are several documents.", show_default=False)
]
Password = Annotated[
    str | None,
    typer.Option(
        envvar="FOCUSDOC_PASSWORD",
        metavar="TEXT",
        help="The password of an encrypted PDF; - asks for it on the terminal, which keeps it out of the process list.",
        rich_help_panel=_DOCUMENT,
    ),
]
NoStore = Annotated[
    bool,
    typer.Option(
        "--no-store",
        help="Read the document anew and keep nothing of it on the disk; see focusdoc store.",
        rich_help_panel=_DOCUMENT,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER|NAME",
        help="The base model: a name of focusdoc models list, a folder or a Hugging Face name; without it, the "
        "built-in SmolLM2-135M-Instruct.",
        rich_help_panel=_MODEL,
    ),
]
Adapter = Annotated[
    str,
    typer.Option(
        metavar="FOLDER|auto|none",
        help="The trained adapter of the model; auto takes the one that comes with focusdoc, none goes without.",
        rich_help_panel=_MODEL,
    ),
]
Reader = Annotated[
    str,
    typer.Option(
        metavar="FOLDER|NAME|URL|auto|none",
        help="A larger model that writes the answer from the passages which the base model finds: a folder, a name of "
        "focusdoc models list, a Hugging Face name, or the address of an OpenAI-compatible endpoint such as "
        "http://localhost:11434/v1 (its key in FOCUSDOC_READER_KEY). With none the base model writes. auto: what "
        "FOCUSDOC_READER names, else the catalogue's reader, where no --model is named and it is installed and fits.",
        rich_help_panel=_MODEL,
    ),
]
ReaderModel = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What the endpoint of --reader calls its model.",
        rich_help_panel=_MODEL,
        show_default=False,
    ),
]
ChunkSize = Annotated[
    int | None,
    typer.Option(
        metavar="TOKENS",
        help="Tokens of one chunk of the document; without it, what the adapter was trained for.",
        rich_help_panel=_MODEL,
    ),
]
Paper = Annotated[
    bool,
    typer.Option(
        "--paper",
        help="Decode exactly as the paper's published code does: slower, for the authors' checkpoints.",
        rich_help_panel=_MODEL,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Where the model runs: cpu, cuda or another torch device; auto takes a GPU if there is one.",
        rich_help_panel=_MODEL,
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="The number format of the weights, such as bfloat16 or float32; auto keeps the model's own.",
        rich_help_panel=_MODEL,
    ),
]
MemoryDtype = Annotated[
    str,
    typer.Option(
        metavar="auto|model|int8",
        help="What the document is kept in: int8 takes half the memory; auto takes it where needed.",
        rich_help_panel=_MODEL,
    ),
]
QuoteTokens = Annotated[
    int | None,
    typer.Option(
        metavar="TOKENS",
        help="Show the model the passages it looks at, in at most this many tokens; 0: answer from the candidates "
        "alone. Without it, 384 where an adapter is used.",
        rich_help_panel=_ANSWER,
        show_default=False,
    ),
]
MaxNewTokens = Annotated[
    int,
    typer.Option(metavar="N", help="The answer ends after at most this many tokens.", rich_help_panel=_ANSWER),
]
Stop = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT",
        help="The answer ends before this text; can be given several times.",
        rich_help_panel=_ANSWER,
        show_default=False,
    ),
]
Temperature = Annotated[
    float,
    typer.Option(
        metavar="T", help="0 takes the most probable token each time; higher is more varied.", rich_help_panel=_SAMPLING
    ),
]
TopP = Annotated[
    float,
    typer.Option(
        metavar="P",
        help="Draw only from the most probable tokens that sum to this probability.",
        rich_help_panel=_SAMPLING,
    ),
]
TopK = Annotated[
    int,
    typer.Option(
        metavar="K", help="Draw only from this many most probable tokens; 0 for all.", rich_help_panel=_SAMPLING
    ),
]
RepetitionPenalty = Annotated[
    float,
    typer.Option(
        metavar="X", help="Above 1 makes words of the question and answer come again less.", rich_help_panel=_SAMPLING
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(metavar="N", help="Makes a drawn answer repeatable.", rich_help_panel=_SAMPLING, show_default=False),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object on standard output and nothing else.", rich_help_panel=_OUTPUT),
]
Overview = Annotated[
    bool | None,
    typer.Option(
        "--overview/--no-overview",
        help="Whether the question asks about all of the text (a summary, its themes): the reader gets passages "
        "from every part of it; by default, English words such as 'summarize' tell.",
        show_default=False,
    ),
]
NoStream = Annotated[
    bool,
    typer.Option("--no-stream", help="Print the answer when it is complete, not as it comes.", rich_help_panel=_OUTPUT),
]
