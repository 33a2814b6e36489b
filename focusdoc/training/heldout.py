"""Evaluation during training: facts planted in held-out texts, and the loss of the texts' continuation.

Answers are scored by exact match with greedy decoding. With teacher forcing, greedy decoding gives the whole answer
exactly if every target has the highest logit, so one pass yields both exact match and loss.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
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
from focusdoc.training.data import SampleMaker
from focusdoc.training.dense import TrainingPrompt, dense_logits, target_loss
from focusdoc.training.metrics import means
from focusdoc.training.settings import SampleShape


class _FixedShape(SampleShape):
    """Always the largest shape."""

    def draw(self, rng: random.Random) -> tuple[int, int]:
        return self.max_chunk_size, self.max_chunks


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """A small held-out test, the same at every evaluation.

    Attributes:
        texts: files that are not trained on.
        shapes: (chunks, tokens of a chunk) of each test.
        kinds: the facts that are planted, names of `FACT_MAKERS`.
        cases: samples of each kind, and of continuation, at each shape.
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
