"""What is measured: contenders, lengths and chunk sizes, and what is left out and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from focusdoc.config import PAPER_DIRECT_THRESHOLD
from focusdoc.errors import ConfigError

#: What each contender is, for help and reports.
CONTENDERS: Mapping[str, str] = {
    "focus": "ours: the document is read once, one candidate of each chunk at every step",
    "int8": "the same over keys and values in 8 bits",
    "look": "ours without training: the model's own heads look into the chunks, and it reads what they find",
    "full": "transformers' full attention (sdpa) with its own cache",
    "paper": "the paper's own decoding: everything local is encoded anew at every token",
    "llama.cpp": "full attention of llama.cpp over 4-bit weights (GGUF)",
    "far": "ours at one great length: read and stored, then opened in a new process and asked for a pass key",
}
#: Those that cut the document into chunks of a size that can be chosen.
CHUNKED = ("focus", "int8", "look", "far")
#: What a process can be asked besides the contenders: about the machine and the model, and to open the memory that
#: another one stored.
MACHINE, REOPEN = "machine", "reopen"
#: Those that need an adapter.
ADAPTED = ("focus", "int8", "paper", "far")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all measurements share.

    Attributes:
        model, adapter, device, dtype: as for `FocusEngine.from_pretrained`; None for no adapter.
        text: the file that is read; None for the Python reference.
        steps: tokens decoded after the first one, of each question.
        gguf: the file that llama.cpp runs; None for the catalogue's file of the model.
    """

    model: str | None = None
    adapter: str | None = "auto"
    device: str = "auto"
    dtype: str = "auto"
    text: str | None = None
    steps: int = 16
    gguf: str | None = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is to be measured.

    Attributes:
        lengths: of the document, in tokens.
        contenders: names of `CONTENDERS`.
        chunk_sizes: tokens of a chunk; none for the adapter's own size and those of `beside_own`.
        limits: the longest document, in tokens, of contenders that do not go all the way.
        far_length: the only length of "far", in tokens; it is measured in the first of the chunk sizes.
    """

    lengths: Sequence[int]
    contenders: Sequence[str] = ("focus", "int8", "full", "paper", "llama.cpp")
    chunk_sizes: Sequence[int] = ()
    beside_own: Sequence[int] = (2048,)
    limits: Mapping[str, int] = field(default_factory=dict)
    far_length: int = 409_600

    def __post_init__(self) -> None:
        unknown = next((name for name in self.contenders if name not in CONTENDERS), None)
        if unknown is not None or not self.contenders:
            raise ConfigError(f"The contender {unknown or ''!r} is unknown; choose from {', '.join(CONTENDERS)}.")


@dataclass(frozen=True)
class Case:
    """One measurement, a job of `focusdoc.evaluation.runner`: a contender at a length, in chunks if it has any."""

    task: str
    length: int = 0
    chunk_size: int = 0

    @property
    def id(self) -> str:
        """Names it among those of its contender."""
        return f"{self.length}/{self.chunk_size}"

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the report groups by."""
        return {"length": self.length, "chunk_size": self.chunk_size}

    def __str__(self) -> str:
        cut = f" in chunks of {self.chunk_size:,}" if self.chunk_size else ""
        return f"{self.task} at {self.length:,} tokens{cut}"


def plan(options: Options, facts: Mapping[str, Any], missing: Mapping[str, str]) -> tuple[list[Case], list[str]]:
    """The cases to measure, the shortest first, and a sentence for everything that is left out.

    Args:
        facts: of the model; `benchmarks.speed.machine.facts`.
        missing: why a contender cannot run here at all.
    """
    missing = dict(missing)
    if facts["adapter"] is None:
        missing |= {name: "the model has no adapter" for name in ADAPTED}
    sizes = dict.fromkeys(options.chunk_sizes or (facts["chunk_size"], *options.beside_own))
    names = [name for name in dict.fromkeys(options.contenders) if name not in missing]
    cases, omitted = [], [f"{name}: {missing[name]}" for name in options.contenders if name in missing]
    for length in sorted(set(options.lengths)):
        for name in (name for name in names if name != "far"):
            limit = options.limits.get(name, length)
            if name == "paper" and length < PAPER_DIRECT_THRESHOLD:
                omitted.append(f"paper at {length:,} tokens: below {PAPER_DIRECT_THRESHOLD:,} it cuts no chunks")
            elif length > limit:
                omitted.append(f"{name} at {length:,} tokens: its limit was set to {limit:,}")
            else:
                cases += [Case(name, length, size) for size in (sizes if name in CHUNKED else (0,))]
    if "far" in names:
        cases.append(Case("far", options.far_length, next(iter(sizes))))
    return cases, omitted
