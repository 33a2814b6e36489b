"""The dense and the paper's objective behind one interface: sampling, losses, and distillation from a teacher.

The paper's trains one target token per sample, as in the authors' published code. A span of a long text is the local
context and the next token the target; the chunks are the text before the span (continuation) or the whole text, span
and target included (repetition). All local rows attend to the candidates (refresh mode), so a sample trains one target;
`focusdoc.training.dense` trains many.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from focusdoc.attention import AttentionKernel
from focusdoc.config import PAPER_PROMPT_WINDOW, CandidatePositions, FocusConfig
from focusdoc.decoding.condense import DenseSweep, RefreshedLocal
from focusdoc.decoding.parallel import RefreshedDecoder
from focusdoc.errors import ConfigError, TrainingError
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.reading import read_chunks
from focusdoc.modeling.base import BaseModel
from focusdoc.modeling.candidate import LayerWeights
from focusdoc.training.data import REUSE_WINDOW, UNPLANTED, SampleMaker, TrainingSample
from focusdoc.training.dense import PassLimits, batches, dense_logits, mean_and_first_losses, token_losses
from focusdoc.training.settings import TrainingConfig

#: Returns the weights of every layer, with a fresh graph for one backward pass.
MakeWeights = Callable[[], Sequence[LayerWeights]]
#: Shortest local context, in tokens.
SMALLEST_LOCAL = 30
#: Chunk tokens that go through the base model in one pass.
_TOKENS_PER_PASS = 2048


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
        self._base, self._kernel = base, kernel
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


@dataclass(frozen=True, slots=True)
class PaperSample:
    """One target token with its local context, and the text `context_ids`, whose last chunk may be shorter.

    Attributes:
        local_ids: the local context, without BOS; `target` is the token after it.
        local_start: index of the first local token in the text the sample was drawn from.
        objective: ``"continuation"`` or ``"repetition"``.
    """

    num_losses: ClassVar[int] = 1

    context_ids: tuple[int, ...]
    local_ids: tuple[int, ...]
    target: int
    chunk_size: int
    local_start: int
    objective: str

    @property
    def num_tokens(self) -> int:
        """Tokens of the sample's chunks."""
        return len(self.context_ids)

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The dynamic prompt: the tail of the local context, at most as long as a chunk, without BOS."""
        return self.local_ids[-min(PAPER_PROMPT_WINDOW, self.chunk_size) :]


def draw_paper_sample(
    ids: Sequence[int], *, autoencoder: bool, local_window: int, memory_strides: Sequence[int], rng: random.Random
) -> PaperSample:
    """Draw a sample from a text, in the order and the ranges of the authors' code (``_beacon_forward``).

    Args:
        autoencoder: repetition, where the chunks are the whole text; else continuation, where they are the text
            before the local context.
        local_window: W; the local context has between 30 and W-2 tokens.
        memory_strides: the chunk sizes to choose from.

    Raises:
        ConfigError: W is below 32 tokens, or there is no chunk size to choose from.
        TrainingError: the text is shorter than W.
    """
    if local_window < SMALLEST_LOCAL + 2:
        raise ConfigError(f"local_window is {local_window}; the paper's objective needs {SMALLEST_LOCAL + 2} or more.")
    if not memory_strides or min(memory_strides) < 1:
        raise ConfigError(f"memory_strides is {list(memory_strides)}; give at least one chunk size, each 1 or more.")
    num_blocks = len(ids) // local_window
    if num_blocks == 0:
        raise TrainingError(
            f"The text has {len(ids)} tokens, fewer than the local window of {local_window}; give a longer text or "
            "lower local_window."
        )
    local_size = rng.choice(range(SMALLEST_LOCAL, local_window - 1))
    if autoencoder:
        block = rng.choice(range(num_blocks))
        start = block * local_window + rng.choice(range(local_window - local_size))
    else:
        start = (num_blocks - 1) * local_window + rng.choice(range(1, local_window - local_size))
    return PaperSample(
        context_ids=tuple(ids if autoencoder else ids[:start]),
        local_ids=tuple(ids[start : start + local_size]),
        target=ids[start + local_size],
        chunk_size=rng.choice(memory_strides),
        local_start=start,
        objective="repetition" if autoencoder else "continuation",
    )


def paper_logits(
    base: BaseModel,
    weights: Sequence[LayerWeights],
    sample: PaperSample,
    kernel: AttentionKernel,
    bos_token_id: int,
    *,
    candidate_positions: CandidatePositions = "sequential",
) -> Tensor:
    """Float32 logits [vocab] of the target, with gradients for `weights` through all candidates and all local rows.

    They equal those of `RefreshedDecoder` for the sample's local context and dynamic prompt, to which BOS is prepended
    if missing. `weights` are those of every layer, in the model's dtype.
    """
    local_ids, prompt_ids = (
        list(ids if ids[0] == bos_token_id else (bos_token_id, *ids)) for ids in (sample.local_ids, sample.prompt_ids)
    )
    batch = max(1, _TOKENS_PER_PASS // sample.chunk_size)
    blocks = read_chunks(base, sample.context_ids, sample.chunk_size, kernel, batch=batch)
    config = FocusConfig.paper(candidate_positions=candidate_positions)
    decoder = RefreshedDecoder(base, [{}] * base.num_layers, blocks, kernel=kernel, config=config, max_new_tokens=1)
    # Only to compute the ordinary KV of the prompt; the decoder's local row and candidates are not used.
    decoder.start(prompt_ids[-1:], prompt_ids)
    tail_start = len(prompt_ids) - 1
    positions = [decoder.local_start + torch.arange(len(local_ids))]
    distances = []
    for group in decoder.groups:
        position = group.chunk_len + tail_start
        positions.append(torch.full((group.num_chunks,), position))
        distances.append((decoder.candidate_positions(group)[:, None] - position).to(base.device))
    layout = DenseSweep(
        groups=decoder.groups,
        num_targets=1,
        tail_start=tail_start,
        rotary=base.rotary,
        kernel=kernel,
        local=RefreshedLocal(len(local_ids), distances),
    )
    hidden = base.run(
        torch.tensor([local_ids + prompt_ids[-1:] * decoder.num_chunks], device=base.device),
        torch.cat(positions)[None].to(base.device),
        layout,
        weights=weights,
        num_candidates=decoder.num_chunks,
    )
    return base.logits(hidden[0, len(local_ids) - 1])


def paper_loss(logits: Tensor, sample: PaperSample) -> Tensor:
    """Cross entropy of the target in nats, from logits [vocab]."""
    return functional.cross_entropy(logits[None], torch.tensor([sample.target], device=logits.device))


class PaperObjective:
    """One target token of each sample, as the authors' code trains it.

    The config's `local_window` and `memory_strides` are the authors' W and ``memory_stride``. A base model without a
    BOS token is a ConfigError.
    """

    def __init__(self, base: BaseModel, config: TrainingConfig, kernel: AttentionKernel) -> None:
        bos = getattr(base.config, "bos_token_id", None)
        if not isinstance(bos, int):
            raise ConfigError(f"{base.name} has no BOS token, which the paper's objective needs; train dense.")
        self._base, self._config, self._kernel, self._bos = base, config, kernel, bos
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
        ids = [*sample.context_ids, *sample.local_ids]
        distance = divergence_from_teacher(self._base, logits[None], ids) if self._config.distill else None
        yield [TargetLoss(sample.objective, paper_loss(logits, sample), distance)]
