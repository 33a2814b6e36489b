"""The training run: a loop over samples with checkpoints, so that it can stop at any moment and go on."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from focusdoc.attention import attention_kernel
from focusdoc.config import CandidatePositions, FocusConfig
from focusdoc.errors import ConfigError, TrainingError
from focusdoc.memory.reading import read_chunks
from focusdoc.modeling.adapter import Adapter, AdapterConfig, untrained_adapter
from focusdoc.modeling.adapter_files import load_adapter, save_adapter
from focusdoc.modeling.base import BaseModel
from focusdoc.modeling.candidate import LayerWeights
from focusdoc.storage import atomic_write
from focusdoc.training.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from focusdoc.training.data import SampleMaker, TrainingSample
from focusdoc.training.dense import dense_logits, target_loss


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
        save_every: steps between checkpoints.
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

    def __post_init__(self) -> None:
        for name, smallest in (("steps", 1), ("accumulate", 1), ("save_every", 1), ("chunk_size", 1), ("warmup", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < smallest:
                raise ConfigError(f"{name} is {value!r}; it must be a whole number of at least {smallest}.")
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0 and finite.")
        if not self.projections or set(self.projections) - set("qkvo"):
            raise ConfigError(f"projections is {self.projections!r}; give some of the letters q, k, v and o.")
        if self.candidate_positions not in ("sequential", "shared"):
            raise ConfigError(f"candidate_positions is {self.candidate_positions!r}; choose 'sequential' or 'shared'.")
        if self.schedule not in ("cosine", "linear", "constant"):
            raise ConfigError(f"schedule is {self.schedule!r}; choose 'cosine', 'linear' or 'constant'.")

    def rate(self, step: int) -> float:
        """The learning rate of `step`, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if self.schedule == "constant":
            return self.learning_rate
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        left = 1 - done if self.schedule == "linear" else (1 + math.cos(math.pi * min(1.0, done))) / 2
        return self.learning_rate * (0.1 + 0.9 * left)


class CandidateWeights(nn.Module):
    """The trainable projections of all layers, kept in float32 whatever the base model computes in."""

    def __init__(self, adapter: Adapter, device: torch.device) -> None:
        super().__init__()
        self.num_layers = adapter.config.num_layers
        self.letters = list(adapter.config.projections)
        self.weights = nn.ParameterDict(
            {
                f"{layer}_{letter}": nn.Parameter(weight.to(device, torch.float32, copy=True))
                for layer in range(self.num_layers)
                for letter, weight in adapter.of_layer(layer).items()
            }
        )

    def layers(self, dtype: torch.dtype) -> list[LayerWeights]:
        """The weights of every layer in `dtype`; gradients flow back to the float32 ones."""
        return [
            {letter: self.weights[f"{layer}_{letter}"].to(dtype) for letter in self.letters}
            for layer in range(self.num_layers)
        ]

    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Detached copies by their names in an adapter."""
        return {
            f"layers.{name.replace('_', '.')}.weight": weight.detach().to("cpu", dtype, copy=True).contiguous()
            for name, weight in self.weights.items()
        }


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one optimizer step did: the mean loss of each objective in nats, and its pace."""

    step: int
    losses: dict[str, float]
    grad_norm: float
    learning_rate: float
    tokens: int
    seconds: float


class Trainer:
    """Trains candidate projections by the dense objective.

    Args:
        base: the model, frozen.
        samples: where samples come from.
        output: the run's folder: ``checkpoint/`` (weights and optimizer), ``metrics.jsonl``, ``adapter/``.
        start_from: an adapter to begin with, instead of copies of the base projections.
        record: what the adapter shall tell about its training (data, command).
    """

    def __init__(
        self,
        base: BaseModel,
        samples: SampleMaker,
        config: TrainingConfig,
        output: Path,
        *,
        start_from: Path | None = None,
        record: dict[str, Any] | None = None,
        attention: str = "auto",
    ) -> None:
        self.base = base
        self.samples = samples
        self.config = config
        self.output = output
        self.record = record or {}
        self.step = 0
        base.model.requires_grad_(False)
        if start_from is not None:
            first = load_adapter(start_from, base.model)
        else:
            first = untrained_adapter(base.model, config.projections)
        self.weights = CandidateWeights(first, base.device)
        self.optimizer = torch.optim.AdamW(
            self.weights.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
        )
        self._kernel = attention_kernel(attention)
        self._settings = FocusConfig(candidate_positions=config.candidate_positions)
        output.mkdir(parents=True, exist_ok=True)

    def run(self, stop: Callable[[], bool] = lambda: False) -> Iterator[StepReport]:
        """Train from where the run stands to its last step; yields a report per step.

        Args:
            stop: asked after every step; when it says yes the run saves and ends.

        Raises:
            TrainingError: the loss or the gradient is not finite; the last good checkpoint stays.
        """
        if self.step == 0 and has_checkpoint(self._checkpoint):
            raise TrainingError(f"{self.output} holds a run already; resume it, or choose another output folder.")
        while self.step < self.config.steps:
            report = self._advance()
            with (self.output / "metrics.jsonl").open("a", encoding="utf-8") as metrics:
                metrics.write(json.dumps(asdict(report)) + "\n")
            ending = self.step == self.config.steps or stop()
            if ending or self.step % self.config.save_every == 0:
                self.save()
            yield report
            if ending:
                return

    def _advance(self) -> StepReport:
        begun = time.perf_counter()
        losses: dict[str, list[float]] = defaultdict(list)
        tokens = 0
        self.optimizer.zero_grad(set_to_none=True)
        for part in range(self.config.accumulate):
            sample = self.samples.draw(self.step * self.config.accumulate + part)
            tokens += len(sample.token_ids)
            for objective, loss in self._backward(sample):
                losses[objective].append(loss)
        norm = float(nn.utils.clip_grad_norm_(self.weights.parameters(), self.config.clip))
        if not math.isfinite(norm) or not all(math.isfinite(loss) for each in losses.values() for loss in each):
            raise TrainingError(
                f"The loss or its gradient is not finite at step {self.step + 1}; the checkpoint of an earlier step is "
                "kept: resume with a lower learning rate, or in float32."
            )
        rate = self.config.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step += 1
        means = {objective: sum(values) / len(values) for objective, values in sorted(losses.items())}
        return StepReport(self.step, means, norm, rate, tokens, time.perf_counter() - begun)

    def _backward(self, sample: TrainingSample) -> Iterator[tuple[str, float]]:
        """Accumulate the gradient of one sample; yields each prompt's objective and loss."""
        blocks = read_chunks(self.base, sample.token_ids, sample.chunk_size, self._kernel, batch=self._batch(sample))
        share = 1 / (len(sample.prompts) * self.config.accumulate)
        for prompt in sample.prompts:
            weights = self.weights.layers(self.base.dtype)
            logits = dense_logits(self.base, weights, blocks, prompt, self._settings, self._kernel)
            loss = target_loss(logits, prompt)
            (loss * share).backward()  # type: ignore[no-untyped-call]
            yield prompt.objective, float(loss.detach())

    @staticmethod
    def _batch(sample: TrainingSample) -> int:
        """Chunks read in one pass: about 2,048 tokens of them."""
        return max(1, 2048 // sample.chunk_size)

    def adapter(self, dtype: torch.dtype = torch.bfloat16) -> Adapter:
        """The adapter as it stands."""
        shape = asdict(self.samples.shape)
        record = {**self.record, "steps": self.step, "training": asdict(self.config), "shape": shape}
        config = AdapterConfig(
            base_model=self.base.name,
            base_fingerprint=self.base.fingerprint,
            projections=self.weights.letters,
            num_layers=self.weights.num_layers,
            hidden_size=self.base.config.hidden_size,
            chunk_size=self.config.chunk_size,
            candidate_positions=self.config.candidate_positions,
            training=record,
            license="Apache-2.0",
        )
        return Adapter(config, self.weights.tensors(dtype))

    def save(self) -> None:
        """Write a checkpoint that `resume` continues from bit by bit, and the adapter; each atomically.

        Raises:
            TrainingError: the disk is full or not writable; what was saved before is intact.
        """
        save_checkpoint(self._checkpoint, self.weights.weights, self.optimizer, self.step, self._identity)
        try:
            save_adapter(self.adapter(), self.output / "adapter")
        except OSError as error:
            raise TrainingError(
                f"The adapter cannot be written to {self.output} ({error}); free some space."
            ) from error

    def resume(self) -> bool:
        """Go on from the checkpoint of `output`, if there is one; returns whether there was.

        Raises:
            TrainingError: the folder holds another run, or its checkpoint is damaged.
        """
        if not has_checkpoint(self._checkpoint):
            return False
        self.step = load_checkpoint(self._checkpoint, self.weights.weights, self.optimizer, self._identity)
        self._cut_metrics()
        return True

    def _cut_metrics(self) -> None:
        """Forget the metrics of steps that a killed run made after its last checkpoint: they come again."""
        path = self.output / "metrics.jsonl"
        if path.exists():
            rows = [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
            kept = [row for row in rows if json.loads(row)["step"] <= self.step]
            atomic_write(path, "".join(f"{row}\n" for row in kept).encode())

    @property
    def _checkpoint(self) -> Path:
        return self.output / "checkpoint"

    @property
    def _identity(self) -> dict[str, Any]:
        """What the past of this run depends on; a run that differs in any of it is another run."""
        config = {key: value for key, value in asdict(self.config).items() if key not in ("save_every", "chunk_size")}
        return {
            "base_fingerprint": self.base.fingerprint,
            "dtype": str(self.base.dtype),
            **config,
            "seed": self.samples.seed,
            "mix": dict(self.samples.mix),
            "shape": asdict(self.samples.shape),
        }
