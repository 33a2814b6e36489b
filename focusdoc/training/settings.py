"""The settings of a training run, and of the samples it draws."""

from __future__ import annotations

import math
import random
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal, NamedTuple

from focusdoc.config import CandidatePositions
from focusdoc.errors import ConfigError

#: Settings that may change while a run goes on.
_FREE = frozenset({"save_every", "eval_every", "chunk_size"})
#: Settings of a run's identity since its beginning; later ones count only where they differ from their default, so
#: that runs from before them can still be resumed.
_FIRST = frozenset(
    {
        *("steps", "learning_rate", "warmup", "schedule", "clip", "weight_decay", "accumulate", "projections"),
        "candidate_positions",
    }
)
#: Parts of the help.
_SAMPLES, _OPTIMIZER, _METHOD, _RUN = "Samples", "Optimizer", "Method", "Run"


class Setting(NamedTuple):
    """What the command line says of a field, and where; see `focusdoc.cli.dataclass_options`.

    Attributes:
        panel: the part of the help that it stands in.
        metavar: what stands for a value there, where its type does not say it.
    """

    help: str
    panel: str
    metavar: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How an adapter is trained.

    Attributes:
        learning_rate: of AdamW. schedule: down to a tenth of it.
        objective: ``"dense"`` is in incremental mode, ``"paper"`` in refresh mode.
        local_window, memory_strides: of the paper's objective: W, and the chunk sizes it chooses from, in tokens; the
            defaults are those of the authors' training script.
        rank: of the product of two matrices that is added to where the run starts.
        distill: weight of the divergence from the teacher; 0 for none.
        first_token: which of two names or lines is the answer is decided there, and in a long answer it is one token of
            many (dense objective only).
        candidate_positions: see `FocusConfig`.
    """

    steps: Annotated[int, Setting("Optimizer steps.", _OPTIMIZER)] = 300
    learning_rate: Annotated[float, Setting("Peak of the learning rate.", _OPTIMIZER)] = 3e-4
    schedule: Annotated[Literal["cosine", "linear", "constant"], Setting("What follows the warm-up.", _OPTIMIZER)] = (
        "cosine"
    )
    warmup: Annotated[int, Setting("Steps of linear rise.", _OPTIMIZER)] = 20
    clip: Annotated[float, Setting("Largest norm of the gradient.", _OPTIMIZER)] = 1.0
    accumulate: Annotated[int, Setting("Samples behind one step.", _OPTIMIZER)] = 1
    weight_decay: float = 0.0
    objective: Annotated[
        Literal["dense", "paper"],
        Setting("dense trains all target tokens at once, paper one, as the authors do.", _METHOD),
    ] = "dense"
    local_window: Annotated[int, Setting("Local window of the paper's objective, in tokens.", _METHOD)] = 3072
    memory_strides: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    rank: Annotated[int | None, Setting("Train matrices of this rank; without it, full ones.", _METHOD, "R")] = None
    distill: Annotated[float, Setting("Weight of the base model, with all of the text, as a teacher.", _METHOD)] = 0.0
    first_token: Annotated[
        float, Setting("Weight of an answer's first token, beside the mean of all of them.", _METHOD)
    ] = 0.0
    projections: Annotated[str, Setting("The projections to train, letters of qkvo.", _METHOD, "LETTERS")] = "qkvo"
    candidate_positions: Annotated[
        CandidatePositions, Setting("Where candidates stand in front of the local context.", _METHOD)
    ] = "sequential"
    chunk_size: Annotated[int, Setting("The chunk size that the adapter recommends.", _METHOD)] = 1024
    save_every: Annotated[int, Setting("Steps between checkpoints.", _RUN)] = 25
    eval_every: Annotated[int, Setting("Steps between evaluations; 0 for one at the end.", _RUN)] = 0

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
        for name, choices in (
            ("candidate_positions", ("sequential", "shared")),
            ("schedule", ("cosine", "linear", "constant")),
            ("objective", ("dense", "paper")),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}.")

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
        """The settings that the past of a run depends on."""
        values = asdict(self)
        defaults = {each.name: each.default for each in fields(self)}
        return {
            name: value
            for name, value in values.items()
            if name in _FIRST or (name not in _FREE and value != defaults[name])
        }


def parse_mix(text: str) -> dict[str, float]:
    """The weights of the objectives as ``--mix`` has them: ``name=weight,name=weight``.

    Raises:
        ConfigError: `text` is not of this form.
    """
    try:
        pairs = [part.split("=") for part in text.split(",") if part.strip()]
        return {name.strip(): float(weight) for name, weight in pairs}
    except ValueError as error:
        raise ConfigError(f"--mix is {text!r}; write it as name=weight,name=weight.") from error


@dataclass(frozen=True, kw_only=True)
class SampleShape:
    """The ranges a sample's shape is drawn from.

    Both are drawn log-uniformly, so that many small and few large chunks are alike likely.

    Attributes:
        max_rows: of all chunks together; a prompt takes, in every chunk, one row for each of its tokens and two more
            (forward and backward of its candidates) for each target. The first prompt is always made. None: no bound.
    """

    max_tokens: Annotated[int, Setting("Chunk tokens read for a sample, at most.", _SAMPLES)] = 2048
    max_chunks: Annotated[int, Setting("Chunks of a sample, at most.", _SAMPLES)] = 128
    min_chunk_size: Annotated[int, Setting("Tokens of a chunk, at least.", _SAMPLES)] = 64
    max_chunk_size: Annotated[int, Setting("Tokens of a chunk, at most.", _SAMPLES)] = 2048
    prompts: Annotated[int, Setting("Prompts that share the chunks of a sample, at most.", _SAMPLES)] = 16
    max_rows: Annotated[
        int | None, Setting("Rows that the prompts of a sample may take; bounds a step's time.", _SAMPLES)
    ] = 4000
    max_reused: Annotated[int, Setting("Earlier samples whose chunks, already read, may join a sample.", _SAMPLES)] = 6
    max_local: Annotated[int, Setting("Tokens of the local context of a continuation, at most.", _SAMPLES)] = 512
    quoted: Annotated[
        float, Setting("Share of questions that are asked with passages beside them, as at use.", _SAMPLES)
    ] = 0.4
    targets: Annotated[int, Setting("Target tokens of a continuation or reconstruction.", _SAMPLES)] = 16

    def __post_init__(self) -> None:
        # A chunk of one token has no stretch to reconstruct.
        smallest = {"min_chunk_size": 2, "max_chunks": 1, "prompts": 1, "targets": 1, "max_reused": 0, "max_local": 16}
        for name, least in smallest.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if not 0 <= self.quoted <= 1:
            raise ConfigError(f"quoted is {self.quoted}; it must be a share from 0 to 1.")
        if self.max_rows is not None and self.max_rows < 1:
            raise ConfigError(f"max_rows is {self.max_rows}; it must be at least 1, or None for no bound.")
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
        # The root leans towards many chunks: their number in training is what carries to length.
        return chunk_size, round(most ** math.sqrt(rng.random()))
