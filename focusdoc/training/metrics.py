"""What is measured of a training run: a line of JSON for every step, TensorBoard events, and a held-out test.

The test asks about facts planted in held-out texts, and takes the loss of the texts' continuation. Answers are scored
by exact match with greedy decoding. With teacher forcing, greedy decoding gives the whole answer exactly if every
target has the highest logit, so one pass yields both exact match and loss.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from focusdoc.attention import AttentionKernel
from focusdoc.config import FocusConfig
from focusdoc.decoding.parallel import RefreshedDecoder
from focusdoc.errors import TrainingError
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.reading import read_chunks
from focusdoc.modeling.base import BaseModel
from focusdoc.modeling.candidate import LayerWeights
from focusdoc.storage import atomic_write
from focusdoc.training.data import SampleMaker
from focusdoc.training.dense import TrainingPrompt, dense_logits, target_loss
from focusdoc.training.settings import SampleShape

#: Most points of each curve in the adapter's record.
CURVE_POINTS = 100


class Metrics:
    """The metrics of the run in `folder`: ``metrics.jsonl``, and ``tensorboard/`` if asked for and installed."""

    def __init__(self, folder: Path, *, tensorboard: bool = False) -> None:
        self._path = folder / "metrics.jsonl"
        self._events_folder = folder / "tensorboard" if tensorboard else None
        self._events: Any = None

    def add(self, row: Mapping[str, Any]) -> None:
        """Append the row of one step: ``step``, ``losses`` by objective, numbers, and perhaps ``held_out`` results.

        Raises:
            TrainingError: it cannot be written (a full disk).
        """
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise TrainingError(
                f"{self._path} cannot be written ({error.strerror}); the last checkpoint is kept: free some space and "
                "resume."
            ) from error
        if self._events is None and self._events_folder is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                self._events_folder = None
            else:
                # purge_step hides the events that a killed run wrote after its last checkpoint.
                self._events = SummaryWriter(str(self._events_folder), purge_step=row["step"])
        if events := self._events:
            for name, value in row.items():
                if isinstance(value, Mapping):  # named like losses/words
                    for inner, number in value.items():
                        events.add_scalar(f"{name}/{inner}", number, row["step"])
                elif name != "step":
                    events.add_scalar(name, value, row["step"])

    def rows(self) -> list[dict[str, Any]]:
        """All rows so far, without a line that a killed process left incomplete."""
        if not self._path.exists():
            return []
        *lines, _ = self._path.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines]

    def truncate(self, step: int) -> None:
        """Drop the rows after `step`, the last checkpoint of a killed run, since those steps run again."""
        if self._path.exists():
            kept = [row for row in self.rows() if row["step"] <= step]
            atomic_write(self._path, "".join(f"{json.dumps(row)}\n" for row in kept).encode())

    def close(self) -> None:
        """Flush the event file."""
        if self._events is not None:
            self._events.flush()

    def summary(self) -> dict[str, Any]:
        """Curves and held-out results for the adapter's record."""
        rows = self.rows()
        evaluations = [{"step": row["step"], **row["held_out"]} for row in rows if row.get("held_out")]
        return {"curves": {"loss": loss_curves(rows)}, "held_out_results": evaluations[-CURVE_POINTS:]}


def loss_curves(rows: Sequence[Mapping[str, Any]], points: int = CURVE_POINTS) -> dict[str, list[list[float]]]:
    """For each objective at most `points` pairs [step, mean loss since the previous pair]."""
    width = -(-len(rows) // points) or 1
    curves: dict[str, list[list[float]]] = defaultdict(list)
    for start in range(0, len(rows), width):
        window = rows[start : start + width]
        for objective, loss in means(pair for row in window for pair in row["losses"].items()).items():
            curves[objective].append([window[-1]["step"], round(loss, 4)])
    return dict(curves)


def means(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The mean of the values of each name."""
    named: dict[str, list[float]] = defaultdict(list)
    for name, value in values:
        named[name].append(value)
    return {name: sum(each) / len(each) for name, each in named.items()}


class _FixedShape(SampleShape):
    """Always the largest shape."""

    def draw(self, rng: random.Random) -> tuple[int, int]:
        return self.max_chunk_size, self.max_chunks


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """A small held-out test, the same at every evaluation, on texts that are not trained on.

    `shapes` are (chunks, tokens of a chunk), `kinds` the facts to plant, names of `FACT_MAKERS`, and `cases` the
    samples of each kind, and of continuation, at each shape.
    """

    tokenizer: Any
    texts: Sequence[Path]
    shapes: Sequence[tuple[int, int]] = ((4, 256), (16, 256))
    kinds: Sequence[str] = ("number", "words")
    cases: int = 4
    seed: int = 1_000_003
    _tokens: dict[Path, list[int]] = field(default_factory=dict, init=False)

    def check(self) -> None:
        """Raise TrainingError, before a long run starts, if no text is long enough for one of the shapes."""
        for num_chunks, chunk_size in self.shapes:
            try:
                self._maker("continuation", num_chunks, chunk_size).draw(0)
            except TrainingError as error:
                raise TrainingError(
                    f"No held-out text has enough tokens for {num_chunks} chunks of {chunk_size}; give longer ones or "
                    "a smaller test."
                ) from error

    @torch.no_grad()
    def evaluate(
        self, base: BaseModel, weights: Sequence[LayerWeights], config: FocusConfig, kernel: AttentionKernel
    ) -> dict[str, float]:
        """The share of exact answers for each kind, and the mean continuation loss in nats, at each shape.

        For example ``{"number 4x256": 0.75, "continuation loss 4x256": 3.1}``, in the decode mode of `config`, whose
        ``candidate_positions`` are filled in. `weights` are those of every layer, in the model's dtype.

        Raises:
            TrainingError: no text is long enough for the largest shape.
        """
        scores: list[tuple[str, float]] = []
        for num_chunks, chunk_size in self.shapes:
            for kind in (*self.kinds, "continuation"):
                maker = self._maker(kind, num_chunks, chunk_size)
                for case in range(self.cases):
                    sample = maker.draw(case)
                    prompt = sample.prompts[0]
                    if prompt.objective != kind:
                        continue  # the fact did not fit, and another prompt replaced it
                    blocks = read_chunks(base, sample.token_ids, chunk_size, kernel)
                    logits = target_logits(base, weights, blocks, prompt, config, kernel)
                    if kind == "continuation":
                        label, score = "continuation loss", float(target_loss(logits, prompt))
                    else:
                        targets = list(prompt.token_ids[-prompt.num_targets :])
                        label, score = kind, float(logits.argmax(dim=-1).tolist() == targets)
                    scores.append((f"{label} {num_chunks}x{chunk_size}", score))
        return means(scores)

    def _maker(self, kind: str, num_chunks: int, chunk_size: int) -> SampleMaker:
        shape = _FixedShape(
            min_chunk_size=chunk_size,
            max_chunk_size=chunk_size,
            max_chunks=num_chunks,
            max_tokens=num_chunks * chunk_size,
            prompts=1,
            targets=32,
        )
        return SampleMaker(self.tokenizer, self.texts, mix={kind: 1.0}, shape=shape, seed=self.seed, cache=self._tokens)


def target_logits(
    base: BaseModel,
    weights: Sequence[LayerWeights],
    blocks: Sequence[MemoryBlock],
    prompt: TrainingPrompt,
    config: FocusConfig,
    kernel: AttentionKernel,
) -> Tensor:
    """Teacher-forced float32 logits [num_targets, vocab] of a prompt's targets, in the decode mode of `config`."""
    if config.local_attention == "incremental":
        return dense_logits(base, weights, blocks, [prompt], config, kernel)[0]
    local, targets = list(prompt.token_ids[: -prompt.num_targets]), prompt.token_ids[-prompt.num_targets :]
    dynamic = local[-config.prompt_window :]
    bos = config.bos_token_id if config.uses_bos else None
    if bos is not None:
        local, dynamic = (ids if ids[0] == bos else [bos, *ids] for ids in (local, dynamic))
    decoder = RefreshedDecoder(base, weights, blocks, kernel=kernel, config=config, max_new_tokens=len(targets))
    logits = [decoder.start(local, dynamic)]
    return torch.stack([*logits, *(decoder.step(token) for token in targets[:-1])])
