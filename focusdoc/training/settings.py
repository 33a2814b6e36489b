"""The settings of a training run."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

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


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How an adapter is trained.

    Attributes:
        steps: optimizer steps.
        learning_rate: of AdamW, at its peak. warmup: steps of linear rise. schedule: what follows, down to a tenth.
        clip: largest norm of the gradient. accumulate: samples behind one optimizer step.
        projections: the letters of the projections to train.
        chunk_size: the chunk size the adapter will recommend.
        candidate_positions: see `FocusConfig`.
        save_every: steps between checkpoints. eval_every: steps between held-out evaluations, 0 for the end only.
        objective: ``"dense"`` trains every target token of a prompt in one pass (incremental mode), ``"paper"`` one
            token of each sample, as the authors' code does (refresh mode).
        local_window, memory_strides: of the paper's objective: W, and the chunk sizes it chooses from, in tokens; the
            defaults are those of the authors' training script.
        rank: train a product of two matrices of this rank, added to where the run starts; None trains full matrices.
        distill: weight of the divergence from the base model with the whole text in its own context; 0 for none.
        first_token: weight of an answer's first token beside the mean of all its tokens. Which of two names or lines is
            the answer is decided there, and in a long answer it is one token of many (dense objective only).
    """

    steps: int = 300
    learning_rate: float = 3e-4
    warmup: int = 20
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    clip: float = 1.0
    weight_decay: float = 0.0
    accumulate: int = 1
    projections: str = "qkvo"
    chunk_size: int = 1024
    candidate_positions: CandidatePositions = "sequential"
    save_every: int = 25
    eval_every: int = 0
    objective: Literal["dense", "paper"] = "dense"
    local_window: int = 3072
    memory_strides: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    rank: int | None = None
    distill: float = 0.0
    first_token: float = 0.0

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
