"""The dense objective: all target tokens of a prompt are trained in one pass.

The paper trains one target token per sample. In incremental mode each token has its own candidates, which see no other
candidates, so the T targets of a prompt can share a pass: an ordinary stream without gradient computes the KV of
chunks, tails and local prefix, and the candidates and local rows of all T targets run on top of it with gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from focusdoc.attention import AttentionKernel
from focusdoc.config import FocusConfig
from focusdoc.errors import ConfigError
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.modeling.base import BaseModel
from focusdoc.modeling.candidate import LayerWeights
from focusdoc.training.layouts import OrdinaryLayout, TargetLayout

#: Activations that a row keeps for the backward pass in each layer, in units of hidden_size and of intermediate_size.
_SAVED_HIDDEN, _SAVED_MLP = 30, 6
#: Share of a GPU's free memory for these activations; the rest is for attention scores and logits.
_MEMORY_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class TrainingPrompt:
    """A local context whose last tokens are targets.

    Attributes:
        num_targets: how many of the last of `token_ids` are targets; at least one token must precede them.
        objective: the name under which the loss is reported.
        prompt_window: most tokens of the dynamic prompt, if less than configured.
        questions: the wordings of the question; no chunk may have another fact that answers one of them.
        local_ids: the local context, if it differs from the tokens before the targets, such as with passages in front;
            its last token must be the same.
    """

    token_ids: tuple[int, ...]
    num_targets: int
    objective: str
    prompt_window: int | None = None
    questions: frozenset[str] = frozenset()
    local_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.num_targets < len(self.token_ids):
            raise ConfigError(
                f"num_targets is {self.num_targets} of {len(self.token_ids)} tokens; it must leave at least one before."
            )
        if self.local_ids and self.local_ids[-1] != self.token_ids[-self.num_targets - 1]:
            raise ConfigError("local_ids must end with the token before the first target.")

    @property
    def local(self) -> tuple[int, ...]:
        """The local context before the targets."""
        return self.local_ids or self.token_ids[: -self.num_targets]


def dense_logits(
    base: BaseModel,
    weights: Sequence[LayerWeights],
    blocks: Sequence[MemoryBlock],
    prompts: Sequence[TrainingPrompt],
    config: FocusConfig,
    kernel: AttentionKernel,
) -> list[Tensor]:
    """Teacher-forced logits of all targets, float32 [num_targets, vocab] for each prompt, with gradients for `weights`.

    They equal those of `ParallelDecoder` in incremental mode, step by step. All prompts share two passes, one without
    gradient and one with, so the caller has to bound their number by the available memory. `weights` are those of every
    layer, in the model's dtype; `config` has its ``candidate_positions`` filled in.
    """

    def rows(*parts: Tensor) -> Tensor:
        """Token ids or positions of all rows of a pass, int64 [1, rows]."""
        return torch.cat([part.flatten() for part in parts])[None].to(base.device)

    num_chunks = sum(block.num_chunks for block in blocks)
    shared = config.candidate_positions == "shared"
    first_local = 1 if shared else num_chunks
    chunk_lens = torch.cat([torch.full((block.num_chunks,), block.chunk_len) for block in blocks])
    locals_, dynamics, targets = [], [], []
    for prompt in prompts:
        window = min(config.prompt_window, prompt.prompt_window or config.prompt_window)
        locals_.append(list(prompt.local))
        dynamics.append(prompt.token_ids[: -prompt.num_targets][-window:])
        targets.append(prompt.token_ids[-prompt.num_targets : -1])  # the last target is never an input
    tails = _padded([[*dynamic, *fed] for dynamic, fed in zip(dynamics, targets, strict=True)])
    before = _padded([ids[:-1] or ids for ids in locals_])
    fed = _padded([[ids[-1], *rest] for ids, rest in zip(locals_, targets, strict=True)])
    num_prompts, num_targets = fed.shape
    # The ordinary stream: each dynamic prompt behind each chunk, and the local contexts.
    stream = OrdinaryLayout(blocks, num_prompts, tails.shape[1], before.shape[1], kernel)
    places = chunk_lens[:, None] + torch.arange(tails.shape[1])
    local_places = (first_local + torch.arange(before.shape[1])).repeat(num_prompts)
    with torch.no_grad():
        ids = rows(tails.repeat_interleave(num_chunks, dim=0), before)
        base.run(ids, rows(places.repeat(num_prompts, 1), local_places), stream)
    # The targets, with gradient: a local row for each, and its candidate in every chunk.
    tail_starts = torch.tensor([len(ids) - 1 for ids in dynamics])
    local_starts = torch.tensor([len(ids) - 1 for ids in locals_])
    steps = torch.arange(num_targets)
    # [B, k, T]
    positions = chunk_lens[None, :, None] + tail_starts[:, None, None] + steps
    homes = torch.zeros(num_chunks, dtype=torch.long) if shared else torch.arange(num_chunks)
    layout = TargetLayout(
        stream=stream,
        tail_starts=tail_starts.to(base.device),
        local_starts=local_starts.to(base.device),
        num_targets=num_targets,
        distances=(homes[None, :, None] - positions).flatten().to(base.device),
        rotary=base.rotary,
    )
    hidden = base.run(
        rows(fed, fed.repeat_interleave(num_chunks, dim=0)),
        rows(first_local + local_starts[:, None] + steps, positions),
        layout,
        weights=weights,
        num_candidates=positions.numel(),
    )
    # One matrix product with the LM head for all prompts: one call per prompt is slow.
    counts = [prompt.num_targets for prompt in prompts]
    is_target = torch.arange(num_targets) < torch.tensor(counts)[:, None]
    of_targets = is_target.flatten().nonzero().squeeze(1).to(base.device)
    return list(torch.split(base.logits(hidden[0].index_select(0, of_targets)), counts))


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Token ids padded at the end, int64 [len(rows), longest row]."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def token_losses(logits: Sequence[Tensor], prompts: Sequence[TrainingPrompt]) -> Tensor:
    """Cross entropy in nats of the targets of all prompts, concatenated; `logits` are [num_targets, vocab] each."""
    targets = torch.tensor([token for prompt in prompts for token in prompt.token_ids[-prompt.num_targets :]])
    flat = torch.cat(tuple(logits)) if len(logits) > 1 else logits[0]
    return functional.cross_entropy(flat, targets.to(flat.device), reduction="none")


def mean_and_first_losses(losses: Tensor, prompts: Sequence[TrainingPrompt]) -> tuple[Tensor, Tensor]:
    """The mean loss of each prompt and the loss of its first target, both [num_prompts], from `token_losses`."""
    counts = torch.tensor([prompt.num_targets for prompt in prompts])
    owners = torch.arange(len(prompts)).repeat_interleave(counts).to(losses.device)
    sums = torch.zeros(len(prompts), device=losses.device).index_add(0, owners, losses)
    return sums / counts.to(losses.device), losses[(counts.cumsum(0) - counts).to(losses.device)]


def target_loss(logits: Tensor, prompt: TrainingPrompt) -> Tensor:
    """Mean cross entropy of the targets of one prompt, in nats; a scalar."""
    return token_losses([logits], [prompt]).mean()


@dataclass(frozen=True, slots=True)
class PassLimits:
    """Batch sizes for one device.

    Most rows of a pass with gradient, padding included; the fixed cost of a batch's passes, in rows; and about how many
    chunk tokens are read in one pass.
    """

    gradient_rows: int
    pass_rows: int
    read_tokens: int

    @classmethod
    def of(cls, base: BaseModel) -> PassLimits:
        """The limits for the device of `base`.

        Few rows saturate a CPU, and stay in its cache. On a GPU a pass of 1,000 rows takes as long as one of 10,000,
        since kernel launches dominate, so there the memory sets the limit.
        """
        if base.device.type != "cuda":
            return cls(gradient_rows=2048, pass_rows=300, read_tokens=2048)
        free, _ = torch.cuda.mem_get_info(base.device)
        mlp = getattr(base.config, "intermediate_size", 4 * base.config.hidden_size)
        row = base.num_layers * (_SAVED_HIDDEN * base.config.hidden_size + _SAVED_MLP * mlp) * base.dtype.itemsize
        return cls(gradient_rows=max(256, int(_MEMORY_SHARE * free) // row), pass_rows=20_000, read_tokens=16_384)


def batches(prompts: Sequence[TrainingPrompt], num_chunks: int, limits: PassLimits) -> Iterator[list[TrainingPrompt]]:
    """Batches of prompts of similar length, to save padding, with at most ``limits.gradient_rows``."""

    def cost(prompts: Sequence[TrainingPrompt]) -> float:
        """In rows: forward and backward of a batch with padding, plus the fixed cost of its passes."""
        targets, local = max(each.num_targets for each in prompts), max(len(each.local) for each in prompts)
        tail = max(min(len(each.token_ids), (each.prompt_window or local) + each.num_targets) for each in prompts)
        return len(prompts) * (local + num_chunks * (tail + 2 * targets)) + limits.pass_rows

    batch: list[TrainingPrompt] = []
    for prompt in sorted(prompts, key=lambda each: (each.num_targets, len(each.local), len(each.token_ids))):
        together = [*batch, prompt]
        too_many = prompt.num_targets * (num_chunks + 1) * len(together) > limits.gradient_rows
        if batch and (too_many or cost(together) > cost(batch) + cost([prompt])):
            yield batch
            together = [prompt]
        batch = together
    yield batch
