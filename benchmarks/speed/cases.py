"""The cases to measure: contenders, lengths and chunk sizes, and which are omitted and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from focusdoc.config import PAPER_DIRECT_THRESHOLD
from focusdoc.errors import ConfigError

#: A description of each contender, for help and reports.
CONTENDERS: Mapping[str, str] = {
    "focus": "ours: the document is read once, one candidate of each chunk at every step",
    "int8": "the same with int8 keys and values",
    "look": "ours without an adapter: the model's retrieval heads find passages, which it reads",
    "full": "transformers' full attention (sdpa) with its KV cache",
    "paper": "the paper's decoding, which encodes the local context again at every token",
    "llama.cpp": "full attention of llama.cpp with 4-bit weights (GGUF)",
    "far": "ours at one very long length: read and stored, then opened in a new process and asked for a pass key",
}
#: Contenders with a variable chunk size.
CHUNKED = ("focus", "int8", "look", "far")
#: Work of a process besides the contenders: properties of machine and model, and opening a stored memory.
MACHINE, REOPEN = "machine", "reopen"
#: Contenders that need an adapter.
ADAPTED = ("focus", "int8", "paper", "far")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of all measurements.

    Attributes:
        model, adapter, device, dtype: as for `FocusEngine.from_pretrained`; None for no adapter.
        text: the document; None for the Python reference.
        steps: tokens decoded after the first one, for each question.
        gguf: the file for llama.cpp; None for the catalogue's file of the model.
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
    """Which cases to measure.

    Attributes:
        lengths: of the document, in tokens.
        contenders: names of `CONTENDERS`.
        chunk_sizes: tokens of a chunk; empty for the adapter's size and those of `beside_own`.
        limits: the longest document, in tokens, of some contenders.
        far_length: the only length of "far", in tokens; measured with the first chunk size.
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
    """One measurement, a job of `focusdoc.evaluation.results`: contender, length and chunk size (0 without chunks)."""

    task: str
    length: int = 0
    chunk_size: int = 0

    @property
    def id(self) -> str:
        """Unique within the contender."""
        return f"{self.length}/{self.chunk_size}"

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the report groups by."""
        return {"length": self.length, "chunk_size": self.chunk_size}

    def __str__(self) -> str:
        cut = f" in chunks of {self.chunk_size:,}" if self.chunk_size else ""
        return f"{self.task} at {self.length:,} tokens{cut}"


def plan(options: Options, facts: Mapping[str, Any], missing: Mapping[str, str]) -> tuple[list[Case], list[str]]:
    """The cases to measure, shortest first, and a sentence for each omitted one.

    Args:
        facts: from `benchmarks.speed.machine.facts`.
        missing: contenders that cannot run here, with the reason.
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
                omitted.append(f"paper at {length:,} tokens: below {PAPER_DIRECT_THRESHOLD:,} it uses no chunks")
            elif length > limit:
                omitted.append(f"{name} at {length:,} tokens: its limit is {limit:,}")
            else:
                cases += [Case(name, length, size) for size in (sizes if name in CHUNKED else (0,))]
    if "far" in names:
        cases.append(Case("far", options.far_length, next(iter(sizes))))
    return cases, omitted
