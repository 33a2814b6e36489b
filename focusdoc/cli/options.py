"""Options that several commands share, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from focusdoc.cli.dataclass_options import option, switch

_DOCUMENT, _ANSWER, _SAMPLING, _MODEL, _OUTPUT = "Document", "Answer", "Sampling", "Model", "Output"

_KINDS = "A PDF, text, web page, e-book, office file or e-mail; - is standard input."
File = Annotated[Path, typer.Argument(metavar="FILE", help=_KINDS, show_default=False)]
Files = Annotated[
    list[Path], typer.Argument(metavar="FILE", help=f"{_KINDS} Can be given several times.", show_default=False)
]
Question = Annotated[str, typer.Argument(metavar="QUESTION", help="The question, in quotes.", show_default=False)]
Password = Annotated[
    str | None,
    option(
        "The password of an encrypted PDF; - asks for it, which keeps it out of the process list.",
        _DOCUMENT,
        "TEXT",
        envvar="FOCUSDOC_PASSWORD",
    ),
]
NoStore = Annotated[
    bool,
    switch(
        "--no-store", "Do not use the document store: read the document again and write nothing to disk.", _DOCUMENT
    ),
]
Model = Annotated[
    str | None,
    option(
        "The base model: a name of focusdoc models list, a folder or a Hugging Face name; without it, the built-in "
        "SmolLM2-135M-Instruct.",
        _MODEL,
        "FOLDER|NAME",
    ),
]
Adapter = Annotated[
    str,
    option(
        "The trained adapter of the model; auto uses the one shipped with focusdoc, none uses no adapter.",
        _MODEL,
        "FOLDER|auto|none",
    ),
]
Reader = Annotated[
    str,
    option(
        "A larger model that answers from the passages that the base model finds: a folder, a name of focusdoc models "
        "list, a Hugging Face name, or the address of an OpenAI-compatible endpoint such as "
        "http://localhost:11434/v1 (its key in FOCUSDOC_READER_KEY). none: the base model answers. auto: "
        "FOCUSDOC_READER, else the catalogue's reader, if it is installed and fits and there is no --model.",
        _MODEL,
        "FOLDER|NAME|URL|auto|none",
    ),
]
ReaderModel = Annotated[str | None, option("The model name at the endpoint of --reader.", _MODEL, "NAME")]
ChunkSize = Annotated[
    int | None, option("Tokens of a chunk of the document; without it, the adapter's.", _MODEL, "TOKENS")
]
Paper = Annotated[
    bool,
    switch("--paper", "Decode exactly as the paper's published code (slower; for the authors' checkpoints).", _MODEL),
]
Device = Annotated[
    str, option("The torch device, such as cpu or cuda; auto uses a GPU if there is one.", _MODEL, "NAME")
]
Dtype = Annotated[
    str, option("The dtype of the weights, such as bfloat16 or float32; auto keeps the model's.", _MODEL, "NAME")
]
MemoryDtype = Annotated[
    str,
    option(
        "The format of the document's KV: int8 takes half the memory; auto uses it if needed.",
        _MODEL,
        "auto|model|int8",
    ),
]
QuoteTokens = Annotated[
    int | None,
    option(
        "Quote the passages with the most attention, in at most this many tokens; 0: answer from the candidates alone. "
        "Without it, 384 with an adapter.",
        _ANSWER,
        "TOKENS",
    ),
]
Cluster = Annotated[
    str | None,
    option(
        "Keep the document in other processes: N on this machine, or those of a Ray cluster, auto for the one that "
        "this machine belongs to.",
        _MODEL,
        "N|auto|ADDRESS",
    ),
]
MaxNewTokens = Annotated[int, option("Most tokens of the answer.", _ANSWER, "N")]
Stop = Annotated[
    list[str] | None, option("Stop string: the answer ends before it; can be given several times.", _ANSWER, "TEXT")
]
Temperature = Annotated[float, option("Sampling temperature; 0 for greedy decoding.", _SAMPLING, "T")]
TopP = Annotated[
    float, option("Sample only from the most probable tokens that sum to this probability.", _SAMPLING, "P")
]
TopK = Annotated[int, option("Sample only from this many most probable tokens; 0 for all.", _SAMPLING, "K")]
RepetitionPenalty = Annotated[
    float, option("Above 1, tokens of the question and answer are repeated less.", _SAMPLING, "X")
]
Seed = Annotated[int | None, option("Makes sampling reproducible.", _SAMPLING, "N")]
Json = Annotated[bool, switch("--json", "Print one JSON object on standard output and nothing else.", _OUTPUT)]
Overview = Annotated[
    bool | None,
    switch(
        "--overview/--no-overview",
        "Whether the question is about the whole text (a summary, its themes), so that the reader gets passages from "
        "every part; by default decided by English words such as 'summarize'.",
        _ANSWER,
    ),
]
NoStream = Annotated[bool, switch("--no-stream", "Print the answer when it is complete.", _OUTPUT)]
