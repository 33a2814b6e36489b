"""The settings of a training run and of its samples."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, NamedTuple, get_args

from focusdoc.config import CandidatePositions
from focusdoc.errors import ConfigError

#: Settings that may change when a run is resumed.
_CHANGEABLE = frozenset({"save_every", "eval_every", "chunk_size"})
#: The original settings of a run's identity. Settings added later count only if they differ from their default, so that
#: older runs can still be resumed.
_ORIGINAL = frozenset(
    {
        *("steps", "learning_rate", "warmup", "schedule", "clip", "weight_decay", "accumulate", "projections"),
        "candidate_positions",
    }
)
_Schedule = Literal["cosine", "linear", "constant"]
_Objective = Literal["dense", "paper"]
#: Panels of the help.
_SAMPLES, _OPTIMIZER, _METHOD, _RUN = "Samples", "Optimizer", "Method", "Run"


class Setting(NamedTuple):
    """The command-line option of a field: its help, panel and placeholder; see `focusdoc.cli.dataclass_options`."""

    help: str
    panel: str
    metavar: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How an adapter is trained; what the command line has too is told by its `Setting`.

    Attributes:
        schedule: decays to a tenth of `learning_rate`, that of AdamW.
        objective: ``"dense"`` is in incremental mode, ``"paper"`` in refresh mode.
        local_window, memory_strides: of the paper's objective: W and the chunk sizes to sample from, in tokens; the
            defaults are those of the authors' training script.
        first_token: this token decides between two names or lines and would count little in the mean of a long answer
            (dense objective only).
    """

    steps: Annotated[int, Setting("Optimizer steps.", _OPTIMIZER)] = 300
    learning_rate: Annotated[float, Setting("Peak learning rate.", _OPTIMIZER)] = 3e-4
    schedule: Annotated[_Schedule, Setting("Schedule after the warm-up.", _OPTIMIZER)] = "cosine"
    warmup: Annotated[int, Setting("Steps of linear warm-up.", _OPTIMIZER)] = 20
    clip: Annotated[float, Setting("Clip the gradient to this norm.", _OPTIMIZER)] = 1.0
    accumulate: Annotated[int, Setting("Samples per optimizer step.", _OPTIMIZER)] = 1
    weight_decay: float = 0.0
    objective: Annotated[
        _Objective, Setting("dense trains all target tokens at once, paper one, as the authors do.", _METHOD)
    ] = "dense"
    local_window: Annotated[int, Setting("Local window of the paper's objective, in tokens.", _METHOD)] = 3072
    memory_strides: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    rank: Annotated[
        int | None, Setting("Train low-rank matrices of this rank; without it, full ones.", _METHOD, "R")
    ] = None
    distill: Annotated[
        float, Setting("Weight of distillation from the base model with full attention to the text.", _METHOD)
    ] = 0.0
    first_token: Annotated[
        float, Setting("Extra weight of an answer's first token, added to the mean over all tokens.", _METHOD)
    ] = 0.0
    projections: Annotated[str, Setting("The projections to train, letters of qkvo.", _METHOD, "LETTERS")] = "qkvo"
    candidate_positions: Annotated[
        CandidatePositions, Setting("Positions of the candidates in front of the local context.", _METHOD)
    ] = "sequential"
    chunk_size: Annotated[int, Setting("The adapter's recommended chunk size.", _METHOD)] = 1024
    save_every: Annotated[int, Setting("Steps between checkpoints.", _RUN)] = 25
    eval_every: Annotated[int, Setting("Steps between evaluations; 0 for only one at the end.", _RUN)] = 0

    def __post_init__(self) -> None:
        at_least_one = ("steps", "accumulate", "save_every", "chunk_size", *(["rank"] if self.rank is not None else []))
        for name in (*at_least_one, "warmup", "eval_every", "local_window"):
            value, smallest = getattr(self, name), 1 if name in at_least_one else 0
            if not isinstance(value, int) or value < smallest:
                raise ConfigError(f"{name} is {value!r}; it must be a whole number of at least {smallest}.")
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0 and finite.")
        for name in ("weight_decay", "distill", "first_token"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or above, and finite.")
        if not self.projections or set(self.projections) - set("qkvo"):
            raise ConfigError(f"projections is {self.projections!r}; give some of the letters q, k, v and o.")
        known = {"candidate_positions": CandidatePositions, "schedule": _Schedule, "objective": _Objective}
        for name, choices in known.items():
            if getattr(self, name) not in get_args(choices):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(get_args(choices))}.")

    def rate(self, step: int) -> float:
        """The learning rate of `step`, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if self.schedule == "constant":
            return self.learning_rate
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        left = 1 - done if self.schedule == "linear" else (1 + math.cos(math.pi * min(1.0, done))) / 2
        return self.learning_rate * (0.1 + 0.9 * left)

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that a resumed run must not change."""
        return {
            each.name: value
            for each in fields(self)
            if each.name not in _CHANGEABLE
            and ((value := getattr(self, each.name)) != each.default or each.name in _ORIGINAL)
        }


def parse_mix(text: str) -> dict[str, float]:
    """The weights of the objectives from ``--mix``; ConfigError unless it has the form ``name=weight,name=weight``."""
    try:
        pairs = [part.split("=") for part in text.split(",") if part.strip()]
        return {name.strip(): float(weight) for name, weight in pairs}
    except ValueError as error:
        raise ConfigError(f"--mix is {text!r}; write it as name=weight,name=weight.") from error


@dataclass(frozen=True, kw_only=True)
class SampleShape:
    """The ranges that a sample's chunk size and number of chunks are drawn from.

    Both are drawn log-uniformly, so that many small and few large chunks are equally likely.

    Attributes:
        max_rows: summed over all chunks. A prompt takes one row per token in every chunk, and two more per target
            (forward and backward of its candidates). The first prompt is always kept. None for no limit.
    """

    max_tokens: Annotated[int, Setting("Most chunk tokens of a sample.", _SAMPLES)] = 2048
    max_chunks: Annotated[int, Setting("Most chunks of a sample.", _SAMPLES)] = 128
    min_chunk_size: Annotated[int, Setting("Fewest tokens of a chunk.", _SAMPLES)] = 64
    max_chunk_size: Annotated[int, Setting("Most tokens of a chunk.", _SAMPLES)] = 2048
    prompts: Annotated[int, Setting("Most prompts that share a sample's chunks.", _SAMPLES)] = 16
    max_rows: Annotated[
        int | None, Setting("Most rows of a sample's prompts; limits the time of a step.", _SAMPLES)
    ] = 4000
    max_reused: Annotated[int, Setting("Most earlier samples whose chunks are reused.", _SAMPLES)] = 6
    max_local: Annotated[int, Setting("Most local tokens of a continuation.", _SAMPLES)] = 512
    quoted: Annotated[float, Setting("Share of questions with quoted passages, as at inference.", _SAMPLES)] = 0.4
    targets: Annotated[int, Setting("Target tokens of a continuation or reconstruction.", _SAMPLES)] = 16

    def __post_init__(self) -> None:
        # A chunk of one token has no span to reconstruct.
        smallest = {"min_chunk_size": 2, "max_chunks": 1, "prompts": 1, "targets": 1, "max_reused": 0, "max_local": 16}
        for name, least in smallest.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if not 0 <= self.quoted <= 1:
            raise ConfigError(f"quoted is {self.quoted}; it must be a share from 0 to 1.")
        if self.max_rows is not None and self.max_rows < 1:
            raise ConfigError(f"max_rows is {self.max_rows}; it must be at least 1, or None for no limit.")
        for name in ("max_chunk_size", "max_tokens"):
            if getattr(self, name) < self.min_chunk_size:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}; it must be at least min_chunk_size ({self.min_chunk_size})."
                )

    def draw(self, rng: random.Random) -> tuple[int, int]:
        """A chunk size and a number of chunks."""
        largest = min(self.max_chunk_size, self.max_tokens)
        chunk_size = round(self.min_chunk_size * (largest / self.min_chunk_size) ** rng.random())
        most = max(1, min(self.max_chunks, self.max_tokens // chunk_size))
        # The root favours many chunks, since training on many generalizes to longer documents.
        return chunk_size, round(most ** math.sqrt(rng.random()))
