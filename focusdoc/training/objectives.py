"""The two objectives behind one face: which samples they draw, the losses of a sample, and the teacher."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

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
from focusdoc.training.data import REACH, UNPLANTED, SampleMaker, TrainingSample
from focusdoc.training.dense import PassLimits, TrainingPrompt, batches, dense_logits, means_and_firsts, token_losses
from focusdoc.training.paper import PaperSample, draw_paper_sample, paper_logits, paper_loss
from focusdoc.training.settings import TrainingConfig

#: Makes the weights of every layer for one more backward pass.
MakeWeights = Callable[[], Sequence[LayerWeights]]
SampleT = TypeVar("SampleT")


class TargetLoss(NamedTuple):
    """The loss of one prompt.

    Attributes:
        objective: the name it is reported under.
        value: mean cross entropy of the targets in nats, a scalar.
        divergence: from the teacher, in nats; None without one.
        first: cross entropy of the first token of an answer, a scalar; None where the targets answer no question.
    """

    objective: str
    value: Tensor
    divergence: Tensor | None
    first: Tensor | None = None


class Objective(Protocol[SampleT]):
    """What a run minimizes."""

    def draw(self, samples: SampleMaker, index: int) -> SampleT:
        """Sample number `index` of the run; a function of the seed and the index alone."""
        ...

    def num_tokens(self, sample: SampleT) -> int:
        """Tokens of the sample's chunks."""
        ...

    def num_losses(self, sample: SampleT) -> int:
        """How many losses `losses` yields."""
        ...

    def losses(self, sample: SampleT, weights: MakeWeights) -> Iterator[list[TargetLoss]]:
        """The losses of a sample in batches, each with a graph of its own that may be freed before the next is made."""
        ...


@torch.no_grad()
def teacher_logits(base: BaseModel, token_ids: Sequence[int], num_targets: int) -> Tensor | None:
    """What the frozen base model itself says at the last `num_targets` tokens, with all of `token_ids` in its context.

    Args:
        token_ids: the text and the local context, without the last target.

    Returns:
        Float32 logits [num_targets, vocab], without a gradient; None where the tokens do not fit into its context.
    """
    if len(token_ids) > base.context_length:
        return None
    ids = torch.tensor([list(token_ids)], device=base.device)
    logits: Tensor = base.model(input_ids=ids, use_cache=False, logits_to_keep=num_targets).logits
    return logits[0].float()


def divergence(logits: Tensor, teacher: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence in nats of `logits` from `teacher`, both [num_targets, vocab]."""
    return functional.kl_div(
        logits.log_softmax(dim=-1), teacher.log_softmax(dim=-1), reduction="batchmean", log_target=True
    )


class DenseObjective:
    """Every target token of several prompts over the same chunks (`focusdoc.training.dense`)."""

    def __init__(self, base: BaseModel, config: TrainingConfig, kernel: AttentionKernel) -> None:
        self._base = base
        self._kernel = kernel
        self._settings = FocusConfig(candidate_positions=config.candidate_positions)
        self._distill = config.distill
        self._limits = PassLimits.of(base)
        self._reuses = False
        self._read: dict[int, tuple[MemoryBlock, ...]] = {}

    def draw(self, samples: SampleMaker, index: int) -> TrainingSample:
        """See `Objective`."""
        self._reuses = samples.shape.max_reused > 0
        return samples.draw(index)

    def num_tokens(self, sample: TrainingSample) -> int:
        """See `Objective`."""
        return len(sample.token_ids)

    def num_losses(self, sample: TrainingSample) -> int:
        """See `Objective`."""
        return len(sample.prompts)

    def losses(self, sample: TrainingSample, weights: MakeWeights) -> Iterator[list[TargetLoss]]:
        """See `Objective`."""
        blocks = self._blocks(sample)
        num_chunks = sum(block.num_chunks for block in blocks)
        for prompts in batches(sample.prompts, num_chunks, self._limits):
            told = dense_logits(self._base, weights(), blocks, prompts, self._settings, self._kernel)
            means, firsts = means_and_firsts(token_losses(told, prompts), prompts)
            yield [
                TargetLoss(
                    prompt.objective,
                    mean,
                    self._divergence(sample, prompt, logits),
                    None if prompt.objective in UNPLANTED else first,
                )
                for prompt, mean, first, logits in zip(prompts, means, firsts, told, strict=True)
            ]

    def _divergence(self, sample: TrainingSample, prompt: TrainingPrompt, logits: Tensor) -> Tensor | None:
        if not self._distill:
            return None
        shown = [token for one in (*sample.earlier, sample) for token in one.token_ids]
        teacher = teacher_logits(self._base, [*shown, *prompt.token_ids[:-1]], prompt.num_targets)
        return None if teacher is None else divergence(logits, teacher)

    def _blocks(self, sample: TrainingSample) -> list[MemoryBlock]:
        """The chunks of a sample and of the earlier ones beside it, each read once while it is in reach."""
        blocks: list[MemoryBlock] = []
        for one in (sample, *sample.earlier):
            if one.number not in self._read:
                batch = max(1, self._limits.read_tokens // one.chunk_size)
                self._read[one.number] = read_chunks(
                    self._base, one.token_ids, one.chunk_size, self._kernel, batch=batch
                )
            blocks += self._read[one.number]
        kept = sorted(self._read)[-REACH:] if self._reuses else []
        self._read = {number: self._read[number] for number in kept}
        return blocks


class PaperObjective:
    """One target token of each sample, as the authors' code trains it (`focusdoc.training.paper`).

    Args:
        config: its `local_window` and `memory_strides` are the authors' W and ``memory_stride``.

    Raises:
        ConfigError: the base model names no BOS token.
    """

    def __init__(self, base: BaseModel, config: TrainingConfig, kernel: AttentionKernel) -> None:
        bos = getattr(base.config, "bos_token_id", None)
        if not isinstance(bos, int):
            raise ConfigError(f"{base.name} names no BOS token, which the paper's objective needs; train dense.")
        self._base = base
        self._config = config
        self._kernel = kernel
        self._bos = bos

    def draw(self, samples: SampleMaker, index: int) -> PaperSample:
        """A text of W to `max_tokens` tokens, and one target in it; the mix decides between the two forms.

        Raises:
            ConfigError: W is above `max_tokens`, or the mix has neither continuation nor reconstruction.
        """
        window, most = self._config.local_window, samples.shape.max_tokens
        if window > most:
            raise ConfigError(f"local_window is {window}, but max_tokens is {most}; lower the one or raise the other.")
        share = samples.mix.get("reconstruction", 0.0)
        both = share + samples.mix.get("continuation", 0.0)
        if not both:
            raise ConfigError("The paper's objective needs a weight for continuation or reconstruction in the mix.")
        rng = random.Random(f"{samples.seed}-{index}")
        autoencoder = rng.random() * both < share
        ids, _ = samples.ground(rng, rng.randint(window, most))
        return draw_paper_sample(
            ids,
            autoencoder=autoencoder,
            local_window=window,
            memory_strides=self._config.memory_strides,
            rng=rng,
        )

    def num_tokens(self, sample: PaperSample) -> int:
        """See `Objective`."""
        return len(sample.context_ids)

    def num_losses(self, sample: PaperSample) -> int:
        """See `Objective`."""
        return 1

    def losses(self, sample: PaperSample, weights: MakeWeights) -> Iterator[list[TargetLoss]]:
        """See `Objective`."""
        logits = paper_logits(
            self._base,
            weights(),
            sample,
            self._kernel,
            self._bos,
            candidate_positions=self._config.candidate_positions,
        )
        teacher = None
        if self._config.distill:
            teacher = teacher_logits(self._base, [*sample.context_ids, *sample.local_ids], 1)
        away = None if teacher is None else divergence(logits[None], teacher)
        yield [TargetLoss(sample.objective, paper_loss(logits, sample), away)]


def make_objective(
    base: BaseModel, config: TrainingConfig, kernel: AttentionKernel
) -> Objective[TrainingSample] | Objective[PaperSample]:
    """The objective that `config` names."""
    return (DenseObjective if config.objective == "dense" else PaperObjective)(base, config, kernel)
