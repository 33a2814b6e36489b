"""The dense and the paper's objective behind one interface: sampling, losses, and distillation from a teacher."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from focusdoc.attention import AttentionKernel
from focusdoc.config import FocusConfig
from focusdoc.errors import ConfigError
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.reading import read_chunks
from focusdoc.modeling.base import BaseModel
from focusdoc.modeling.candidate import LayerWeights
from focusdoc.training.data import REUSE_WINDOW, UNPLANTED, SampleMaker, TrainingSample
from focusdoc.training.dense import PassLimits, batches, dense_logits, mean_and_first_losses, token_losses
from focusdoc.training.paper import PaperSample, draw_paper_sample, paper_logits, paper_loss
from focusdoc.training.settings import TrainingConfig

#: Returns the weights of every layer, with a fresh graph for one backward pass.
MakeWeights = Callable[[], Sequence[LayerWeights]]


class TargetLoss(NamedTuple):
    """The loss of one prompt: mean cross entropy `value` of the targets in nats, and its terms; scalars.

    `divergence` is the KL divergence from the teacher in nats, and `first` the cross entropy of the answer's first
    token; None without a teacher or an answer.
    """

    objective: str
    value: Tensor
    divergence: Tensor | None
    first: Tensor | None = None


@torch.no_grad()
def teacher_logits(base: BaseModel, token_ids: Sequence[int], num_targets: int) -> Tensor | None:
    """Float32 logits [num_targets, vocab] of the frozen base model, with full attention to all of `token_ids`.

    None if the tokens (the text and the local context, without the last target) do not fit into the model's context.
    """
    if len(token_ids) > base.context_length:
        return None
    ids = torch.tensor([list(token_ids)], device=base.device)
    logits: Tensor = base.model(input_ids=ids, use_cache=False, logits_to_keep=num_targets).logits
    return logits[0].float()


def divergence(logits: Tensor, teacher: Tensor) -> Tensor:
    """Mean KL divergence in nats of `logits` from `teacher`, both [num_targets, vocab]."""
    return functional.kl_div(
        logits.log_softmax(dim=-1), teacher.log_softmax(dim=-1), reduction="batchmean", log_target=True
    )


def divergence_from_teacher(base: BaseModel, logits: Tensor, token_ids: Sequence[int]) -> Tensor | None:
    """`divergence` of `logits` [num_targets, vocab] from `teacher_logits`; None without a teacher."""
    teacher = teacher_logits(base, token_ids, len(logits))
    return None if teacher is None else divergence(logits, teacher)


class DenseObjective:
    """Every target token of several prompts over the same chunks (`focusdoc.training.dense`); trains for `decoding`."""

    def __init__(self, base: BaseModel, config: TrainingConfig, kernel: AttentionKernel) -> None:
        self._base = base
        self._kernel = kernel
        self.decoding = FocusConfig(candidate_positions=config.candidate_positions)
        self._distill = config.distill
        self._limits = PassLimits.of(base)
        self._reuses = False
        self._cache: dict[int, tuple[MemoryBlock, ...]] = {}

    def draw(self, samples: SampleMaker, index: int) -> TrainingSample:
        """Sample number `index` of the run; depends on the seed and the index alone."""
        self._reuses = samples.shape.max_reused > 0
        return samples.draw(index)

    def losses(self, sample: TrainingSample, weights: MakeWeights) -> Iterator[list[TargetLoss]]:
        """The losses of a sample in batches; each has its own graph, which may be freed before the next is built."""
        blocks = self._blocks(sample)
        num_chunks = sum(block.num_chunks for block in blocks)
        for prompts in batches(sample.prompts, num_chunks, self._limits):
            all_logits = dense_logits(self._base, weights(), blocks, prompts, self.decoding, self._kernel)
            means, firsts = mean_and_first_losses(token_losses(all_logits, prompts), prompts)
            batch = []
            for prompt, mean, first, logits in zip(prompts, means, firsts, all_logits, strict=True):
                distance = None
                if self._distill:
                    context = [token for each in (*sample.earlier, sample) for token in each.token_ids]
                    distance = divergence_from_teacher(self._base, logits, [*context, *prompt.token_ids[:-1]])
                asks = prompt.objective not in UNPLANTED
                batch.append(TargetLoss(prompt.objective, mean, distance, first if asks else None))
            yield batch

    def _blocks(self, sample: TrainingSample) -> list[MemoryBlock]:
        """KV of the sample's chunks and of the earlier ones that it reuses, read once and cached."""
        blocks: list[MemoryBlock] = []
        for each in (sample, *sample.earlier):
            number, size = each.number, each.chunk_size
            if number not in self._cache:
                batch = max(1, self._limits.read_tokens // size)
                self._cache[number] = read_chunks(self._base, each.token_ids, size, self._kernel, batch=batch)
            blocks += self._cache[number]
        kept = sorted(self._cache)[-REUSE_WINDOW:] if self._reuses else []
        self._cache = {number: self._cache[number] for number in kept}
        return blocks


class PaperObjective:
    """One target token of each sample, as the authors' code trains it (`focusdoc.training.paper`).

    The config's `local_window` and `memory_strides` are the authors' W and ``memory_stride``. A base model without a
    BOS token is a ConfigError.
    """

    def __init__(self, base: BaseModel, config: TrainingConfig, kernel: AttentionKernel) -> None:
        bos = getattr(base.config, "bos_token_id", None)
        if not isinstance(bos, int):
            raise ConfigError(f"{base.name} has no BOS token, which the paper's objective needs; train dense.")
        self._base = base
        self._config = config
        self._kernel = kernel
        self._bos = bos
        self.decoding = FocusConfig.paper(candidate_positions=config.candidate_positions, bos_token_id=bos)

    def draw(self, samples: SampleMaker, index: int) -> PaperSample:
        """A text of W to `max_tokens` tokens and one target in it; the mix weighs continuation and reconstruction.

        Raises:
            ConfigError: W is above `max_tokens`, or the mix has neither continuation nor reconstruction.
        """
        window, max_tokens = self._config.local_window, samples.shape.max_tokens
        if window > max_tokens:
            raise ConfigError(
                f"local_window is {window}, but max_tokens is {max_tokens}; lower the one or raise the other."
            )
        share = samples.mix.get("reconstruction", 0.0)
        both = share + samples.mix.get("continuation", 0.0)
        if not both:
            raise ConfigError("The paper's objective needs a weight for continuation or reconstruction in the mix.")
        rng = random.Random(f"{samples.seed}-{index}")
        autoencoder = rng.random() * both < share
        ids, _ = samples.draw_text(rng, rng.randint(window, max_tokens))
        strides = self._config.memory_strides
        return draw_paper_sample(ids, autoencoder=autoencoder, local_window=window, memory_strides=strides, rng=rng)

    def losses(self, sample: PaperSample, weights: MakeWeights) -> Iterator[list[TargetLoss]]:
        """The one loss of a sample; see `DenseObjective.losses`."""
        positions = self._config.candidate_positions
        logits = paper_logits(self._base, weights(), sample, self._kernel, self._bos, candidate_positions=positions)
        distance = None
        if self._config.distill:
            distance = divergence_from_teacher(self._base, logits[None], [*sample.context_ids, *sample.local_ids])
        yield [TargetLoss(sample.objective, paper_loss(logits, sample), distance)]
