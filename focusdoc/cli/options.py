"""Options that several commands share, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_DOCUMENT, _ANSWER, _SAMPLING, _MODEL, _OUTPUT = "Document", "Answer", "Sampling", "Model", "Output"

_KINDS = "A PDF, text, web page, e-book, office file or e-mail; - is standard input."
File = Annotated[Path, typer.Argument(metavar="FILE", help=_KINDS, show_default=False)]
Files = Annotated[
    list[Path], typer.Argument(metavar="FILE", help=f"{_KINDS} Can be given several times.", show_default=False)
]
Password = Annotated[
    str | None,
    typer.Option(
        envvar="FOCUSDOC_PASSWORD",
        metavar="TEXT",
        help="The password of an encrypted PDF; - asks for it, which keeps it out of the process list.",
        rich_help_panel=_DOCUMENT,
    ),
]
NoStore = Annotated[
    bool,
    typer.Option(
        "--no-store",
        help="Do not use the document store: read the document again and write nothing to disk.",
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
        help="The trained adapter of the model; auto uses the one shipped with focusdoc, none uses no adapter.",
        rich_help_panel=_MODEL,
    ),
]
Reader = Annotated[
    str,
    typer.Option(
        metavar="FOLDER|NAME|URL|auto|none",
        help="A larger model that answers from the passages that the base model finds: a folder, a name of focusdoc "
        "models list, a Hugging Face name, or the address of an OpenAI-compatible endpoint such as "
        "http://localhost:11434/v1 (its key in FOCUSDOC_READER_KEY). none: the base model answers. auto: "
        "FOCUSDOC_READER, else the catalogue's reader, if it is installed and fits and there is no --model.",
        rich_help_panel=_MODEL,
    ),
]
ReaderModel = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The model name at the endpoint of --reader.",
        rich_help_panel=_MODEL,
        show_default=False,
    ),
]
ChunkSize = Annotated[
    int | None,
    typer.Option(
        metavar="TOKENS",
        help="Tokens of a chunk of the document; without it, the adapter's.",
        rich_help_panel=_MODEL,
    ),
]
Paper = Annotated[
    bool,
    typer.Option(
        "--paper",
        help="Decode exactly as the paper's published code (slower; for the authors' checkpoints).",
        rich_help_panel=_MODEL,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="The torch device, such as cpu or cuda; auto uses a GPU if there is one.",
        rich_help_panel=_MODEL,
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="The dtype of the weights, such as bfloat16 or float32; auto keeps the model's.",
        rich_help_panel=_MODEL,
    ),
]
MemoryDtype = Annotated[
    str,
    typer.Option(
        metavar="auto|model|int8",
        help="The format of the document's KV: int8 takes half the memory; auto uses it if needed.",
        rich_help_panel=_MODEL,
    ),
]
QuoteTokens = Annotated[
    int | None,
    typer.Option(
        metavar="TOKENS",
        help="Quote the passages with the most attention, in at most this many tokens; 0: answer from the candidates "
        "alone. Without it, 384 with an adapter.",
        rich_help_panel=_ANSWER,
        show_default=False,
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="N|auto|ADDRESS",
        help="Keep the document in other processes: N on this machine, or those of a Ray cluster, auto for the one "
        "that this machine belongs to.",
        rich_help_panel=_MODEL,
        show_default=False,
    ),
]
MaxNewTokens = Annotated[
    int,
    typer.Option(metavar="N", help="Most tokens of the answer.", rich_help_panel=_ANSWER),
]
Stop = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT",
        help="Stop string: the answer ends before it; can be given several times.",
        rich_help_panel=_ANSWER,
        show_default=False,
    ),
]
Temperature = Annotated[
    float,
    typer.Option(metavar="T", help="Sampling temperature; 0 for greedy decoding.", rich_help_panel=_SAMPLING),
]
TopP = Annotated[
    float,
    typer.Option(
        metavar="P",
        help="Sample only from the most probable tokens that sum to this probability.",
        rich_help_panel=_SAMPLING,
    ),
]
TopK = Annotated[
    int,
    typer.Option(
        metavar="K", help="Sample only from this many most probable tokens; 0 for all.", rich_help_panel=_SAMPLING
    ),
]
RepetitionPenalty = Annotated[
    float,
    typer.Option(
        metavar="X", help="Above 1, tokens of the question and answer are repeated less.", rich_help_panel=_SAMPLING
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(metavar="N", help="Makes sampling reproducible.", rich_help_panel=_SAMPLING, show_default=False),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object on standard output and nothing else.", rich_help_panel=_OUTPUT),
]
Overview = Annotated[
    bool | None,
    typer.Option(
        "--overview/--no-overview",
        help="Whether the question is about the whole text (a summary, its themes), so that the reader gets passages "
        "from every part; by default decided by English words such as 'summarize'.",
        show_default=False,
    ),
]
NoStream = Annotated[
    bool,
    typer.Option("--no-stream", help="Print the answer when it is complete.", rich_help_panel=_OUTPUT),
]
