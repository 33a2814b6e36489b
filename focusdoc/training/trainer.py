"""The training loop, with checkpoints, so that a run can stop at any moment and resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from focusdoc.attention import attention_kernel
from focusdoc.errors import TrainingError
from focusdoc.modeling.adapter import Adapter, AdapterConfig, untrained_adapter
from focusdoc.modeling.adapter_files import load_adapter, save_adapter
from focusdoc.modeling.base import BaseModel
from focusdoc.modeling.low_rank import merged
from focusdoc.storage import remove_leftovers
from focusdoc.training.data import SampleMaker, default_workers, prefetch_samples
from focusdoc.training.metrics import HeldOut, Metrics, means
from focusdoc.training.objectives import DenseObjective, PaperObjective, TargetLoss
from focusdoc.training.processes import Runtime
from focusdoc.training.settings import TrainingConfig
from focusdoc.training.weights import CandidateWeights, has_checkpoint, load_checkpoint, save_checkpoint


@dataclass(frozen=True, slots=True)
class StepReport:
    """The metrics of one optimizer step.

    `losses` are the means in nats by objective, "distillation" the KL divergence from the teacher; `tokens` counts
    those of the chunks; `held_out` has the results of an evaluation after the step, if any.
    """

    step: int
    losses: dict[str, float]
    grad_norm: float
    learning_rate: float
    tokens: int
    seconds: float
    held_out: dict[str, float] = field(default_factory=dict)


class Trainer:
    """Trains candidate projections.

    Args:
        output: the run's folder: ``checkpoint/`` (weights and optimizer), ``metrics.jsonl``, ``adapter/``.
        start_from: an adapter to start from, instead of copies of the base projections.
        record: metadata to save with the adapter (data, command).
        held_out: evaluated every `eval_every` steps and at the end.
        runtime: by default one process.
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
        held_out: HeldOut | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        self.base, self.samples, self.config, self.output = base, samples, config, output
        self.record, self.held_out, self.step = record or {}, held_out, 0
        runtime = runtime or Runtime()
        self.processes = runtime.processes
        self._kernel = attention_kernel("auto")
        objective = DenseObjective if config.objective == "dense" else PaperObjective
        self._objective: Any = objective(base, config, self._kernel)  # Any: its type of sample is private to it
        base.model.requires_grad_(False)
        if start_from is not None:
            initial = merged(load_adapter(start_from, base.model), base.model)
        else:
            initial = untrained_adapter(base.model, config.projections)
        device = torch.device("cpu") if runtime.offload else base.device
        self.weights = CandidateWeights(initial, device, config.rank, samples.seed)
        self.optimizer = torch.optim.AdamW(
            self.weights.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
        )
        output.mkdir(parents=True, exist_ok=True)
        workers = default_workers(base.device) if runtime.workers is None else runtime.workers
        # The paper's samples are spans of a text, which take no time to draw.
        self._workers = 0 if config.objective == "paper" else workers
        self._metrics = Metrics(output, tensorboard=runtime.tensorboard and self.processes.is_main)

    def run(self, stop: Callable[[], bool] = lambda: False) -> Iterator[StepReport]:
        """Train from the current step to the last, or until `stop` is true; yields a report per step, saves at the end.

        Raises:
            TrainingError: the loss or the gradient is not finite; the last checkpoint is kept.
        """
        if self.step == 0 and has_checkpoint(self._checkpoint):
            raise TrainingError(f"{self.output} already has a run; resume it, or choose another output folder.")
        if self.processes.is_main:
            self._metrics.truncate(self.step)
        numbers = [number for step in range(self.step, self.config.steps) for number in self._sample_numbers(step)]
        prefetched = prefetch_samples(self.samples, numbers, self._workers)
        if self.step == self.config.steps and self.processes.is_main and not (self.output / "adapter").exists():
            self.save()  # it was missing for want of space
        while self.step < self.config.steps:
            report = self._train_step(prefetched)
            ending = self.processes.any(stop()) or self.step == self.config.steps
            if self.processes.is_main:
                row = asdict(report)
                self._metrics.add({name: value for name, value in row.items() if name != "held_out" or value})
                if ending or self.step % self.config.save_every == 0:
                    self.save()
            self.processes.wait()
            yield report
            if ending:
                return

    def _sample_numbers(self, step: int) -> list[int]:
        """The samples of a step that this process computes."""
        first, processes = step * self.config.accumulate, self.processes
        return [(first + part) * processes.count + processes.index for part in range(self.config.accumulate)]

    def _train_step(self, prefetched: Iterator[None]) -> StepReport:
        """One optimizer step, and the evaluation if it is due; `prefetched` is from `prefetch_samples`."""
        start = time.perf_counter()
        losses: list[tuple[str, float]] = []
        tokens = 0
        self.optimizer.zero_grad(set_to_none=True)
        for number in self._sample_numbers(self.step):
            next(prefetched)
            sample = self._objective.draw(self.samples, number)
            tokens += sample.num_tokens
            losses += self._backward(sample)
        self.processes.average_gradients(self.weights.parameters())
        losses, tokens = self.processes.gather(losses), sum(self.processes.gather([tokens]))
        norm = float(nn.utils.clip_grad_norm_(self.weights.parameters(), self.config.clip))
        if not math.isfinite(norm) or not all(math.isfinite(loss) for _, loss in losses):
            raise TrainingError(
                f"The loss or its gradient is not finite at step {self.step + 1}; the last checkpoint is kept: resume "
                "with a lower learning rate, or in float32."
            )
        rate = self.config.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step += 1
        seconds = time.perf_counter() - start
        mean = dict(sorted(means(losses).items()))
        return StepReport(self.step, mean, norm, rate, tokens, seconds, self._evaluate())

    def _backward(self, sample: Any) -> Iterator[tuple[str, float]]:
        """Accumulate the gradient of one sample; yields the objective and loss of each prompt."""
        share = 1 / (sample.num_losses * self.config.accumulate)
        for batch in self._objective.losses(sample, self._layers):
            (torch.stack([self._total_loss(loss) for loss in batch]).sum() * share).backward()
            named = [(loss.objective, loss.value) for loss in batch]
            named += [("distillation", loss.divergence) for loss in batch if loss.divergence is not None]
            # One transfer for all, since each synchronizes a GPU.
            values = torch.stack([loss.detach() for _, loss in named]).tolist()
            yield from zip([name for name, _ in named], values, strict=True)

    def _total_loss(self, loss: TargetLoss) -> Tensor:
        """The weighted sum of a prompt's loss terms, a scalar."""
        total = loss.value
        if loss.divergence is not None:
            total = total + self.config.distill * loss.divergence
        if loss.first is not None and self.config.first_token:
            total = total + self.config.first_token * loss.first
        return total

    def _layers(self) -> Any:
        return self.weights.layers(self.base.device, self.base.dtype)

    def _evaluate(self) -> dict[str, float]:
        """The held-out results if an evaluation is due, else an empty dict."""
        due = self.step == self.config.steps or (self.config.eval_every and self.step % self.config.eval_every == 0)
        if self.held_out is None or not due or not self.processes.is_main:
            return {}
        with torch.no_grad():
            return self.held_out.evaluate(self.base, self._layers(), self._objective.decoding, self._kernel)

    def adapter(self, dtype: torch.dtype = torch.bfloat16) -> Adapter:
        """The adapter with the current weights."""
        run = {"steps": self.step, "training": asdict(self.config), **self._sampling}
        config = AdapterConfig(
            base_model=self.base.name,
            base_fingerprint=self.base.fingerprint,
            projections=self.weights.letters,
            num_layers=self.weights.num_layers,
            hidden_size=self.base.config.hidden_size,
            chunk_size=self.config.chunk_size,
            local_attention=self._objective.decoding.local_attention,
            candidate_positions=self.config.candidate_positions,
            training={**self.record, **run, **self._metrics.summary()},
            license="Apache-2.0",
        )
        return Adapter(config, self.weights.tensors(dtype))

    def save(self) -> None:
        """Write a checkpoint, which `resume` continues bit-identically, and the adapter; each atomically.

        Raises:
            TrainingError: the disk is full or not writable; the previous checkpoint is intact.
        """
        save_checkpoint(self._checkpoint, self.weights.weights, self.optimizer, self.step, self._identity)
        self._metrics.close()
        try:
            save_adapter(self.adapter(), self.output / "adapter")
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"The adapter cannot be written to {self.output} ({error}); free some space."
            ) from error

    def resume(self) -> bool:
        """Load the checkpoint in `output`, and return whether there is one; TrainingError as `load_checkpoint`."""
        if self.processes.is_main:
            remove_leftovers(self._checkpoint)
            remove_leftovers(self.output / "adapter")
        if not has_checkpoint(self._checkpoint):
            return False
        self.step = load_checkpoint(self._checkpoint, self.weights.weights, self.optimizer, self._identity)
        return True

    @property
    def _checkpoint(self) -> Path:
        return self.output / "checkpoint"

    @property
    def _sampling(self) -> dict[str, Any]:
        return {"shape": asdict(self.samples.shape), "mix": dict(self.samples.mix)}

    @property
    def _identity(self) -> dict[str, Any]:
        """The settings that a resumed run must not change."""
        identity: dict[str, Any] = {
            "base_fingerprint": self.base.fingerprint,
            "dtype": str(self.base.dtype),
            **self.config.identity,
            "seed": self.samples.seed,
            **self._sampling,
            **self.weights.identity,
        }
        return identity if self.processes.count == 1 else {**identity, "processes": self.processes.count}
