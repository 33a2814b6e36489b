"""The shared options of the commands of ``focusdoc eval``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from focusdoc.cli import options
from focusdoc.cli.dataclass_options import option
from focusdoc.errors import EvaluationError
from focusdoc.evaluation.item import MODES
from focusdoc.training.settings import Setting

_WHAT, _HOW, _RUN = "Benchmark", "Modes", "Run"

Data = Annotated[Path | None, option("The folder with the benchmark's official files.", _WHAT, "DIR")]
Tasks = Annotated[str | None, option("Official names; without it, the paper's tasks.", _WHAT, "NAME,...")]
Limit = Annotated[int | None, option("At most this many items of each task and length.", _WHAT, "N")]
Seed = Annotated[int, option("The random seed.", _WHAT, "N")]
Lengths = Annotated[str | None, option("Lengths in tokens, such as 4K,16K,128K (K is 1,024).", _WHAT, "N,...")]
Order = Annotated[
    str,
    option(
        "Prompts in the order of the paper's authors (for some tasks the context first), or as published.",
        _WHAT,
        "paper|official",
    ),
]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The modes, the model and the output of a run; see the help of each."""

    output_folder: Annotated[
        Path, option("The output folder, with a subfolder for each mode.", _RUN, "DIR", "--output")
    ]
    mode: Annotated[str, Setting(f"{', '.join(MODES)}; several are run and compared.", _HOW, "NAME,...")] = "focus"
    prompt: Annotated[
        str | None,
        Setting(
            "Prompt in the model's chat format, or with bare text; without it, the benchmark's choice.",
            _HOW,
            "chat|plain",
        ),
    ] = None
    quote_tokens: Annotated[
        int | None,
        Setting(
            "For focus: quote passages with the most attention, in at most this many tokens; 0 for none.",
            _HOW,
            "TOKENS",
        ),
    ] = None
    reader: Annotated[
        str | None,
        Setting(
            "For read, bm25 and embedding: the model that answers from the passages, as in focusdoc ask; none "
            "measures only retrieval.",
            _HOW,
            "NAME|URL|none",
        ),
    ] = None
    reader_model: Annotated[str | None, Setting("The model name at the endpoint of --reader.", _HOW, "NAME")] = None
    model: options.Model = None
    adapter: options.Adapter = "auto"
    device: options.Device = "auto"
    dtype: options.Dtype = "auto"
    store: Annotated[
        Path | None,
        Setting(
            "Store memories there, so that documents need not be read again; without it, nothing is stored.",
            _RUN,
            "DIR",
        ),
    ] = None
    shard: Annotated[str, Setting("Run the I-th of N shards; focusdoc eval merge merges them.", _RUN, "I/N")] = "1/1"
    resume: Annotated[bool, Setting("Skip items that already have a row.", _RUN)] = False
    retry: Annotated[bool, Setting("With --resume: run failed items again.", _RUN)] = False

    @property
    def chat(self) -> bool | None:
        """Whether prompts are chat messages; None for the benchmark's choice."""
        if self.prompt not in (None, "chat", "plain"):
            raise EvaluationError(f"--prompt is {self.prompt!r}; choose chat or plain.")
        return None if self.prompt is None else self.prompt == "chat"


def names_in(text: str | None) -> list[str]:
    """The names in ``a,b``."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def lengths_in(text: str) -> list[int]:
    """The token counts in ``4K,16384``."""
    try:
        lengths = [int(name[:-1]) * 1024 if name[-1] in "kK" else int(name) for name in names_in(text)]
    except ValueError:
        lengths = []
    if not lengths or min(lengths) < 1:
        raise EvaluationError(f"The lengths are {text!r}; write them as 4096,16384 or 4K,16K.")
    return lengths


def depths_in(text: str) -> list[float]:
    """The depths in ``0,0.5,1``."""
    try:
        return [float(name) for name in names_in(text)]
    except ValueError:
        raise EvaluationError(f"The depths are {text!r}; write them as 0,0.5,1.") from None


def share_in(text: str) -> tuple[float, float]:
    """The range in ``0.8:1``."""
    try:
        first, last = map(float, text.split(":"))
    except ValueError:
        first, last = 0.0, 0.0
    if not 0 <= first < last <= 1:
        raise EvaluationError(f"--questions is {text!r}; write it as FROM:TO, such as 0:0.8 for the first 80%.")
    return first, last


def check_order(order: str) -> None:
    """Raise EvaluationError unless `order` is paper or official."""
    if order not in ("paper", "official"):
        raise EvaluationError(f"--order is {order!r}; choose paper or official.")
