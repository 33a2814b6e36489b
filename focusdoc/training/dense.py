"""The dense objective: every target token of a prompt is trained in one pass.

The paper trains one target token per sample. In incremental mode each token has its own candidates, which see no
other candidates, so the T targets of a prompt share one pass: an ordinary stream without gradient gives the KV of
chunks, tails and local prefix; candidates and local rows of all T targets run above it with gradient.
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

#: What a row of a pass with gradient keeps for the backward pass, in hidden states and in MLP states of every layer.
_KEPT_HIDDEN, _KEPT_MLP = 30, 6
#: Share of a GPU's free memory that these rows may take; attention's scores and the logits take from the rest.
_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class TrainingPrompt:
    """A local context whose last tokens are targets.

    Attributes:
        token_ids: the local context and the targets.
        num_targets: how many of the last tokens are targets; at least one token must stand before them.
        objective: the name under which its loss is reported.
        prompt_window: longest dynamic prompt in tokens, where it shall be shorter than the configured one.
        questions: the wordings of the question it asks; no chunk may hold another fact that answers one of them.
        local_ids: the local context where it holds more than the dynamic prompt does, such as passages; it ends with
            the same token. Empty for what stands before the targets.
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
            raise ConfigError("local_ids ends with another token than the prompt; both are followed by the targets.")

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
    """Logits of every target of `prompts`, teacher-forced, with gradients for `weights`.

    They equal what `ParallelDecoder` in incremental mode gives step by step. All prompts share two passes, one without
    gradient and one with, so the caller bounds their number by the memory there is.

    Args:
        weights: candidate weights of every layer, in the model's dtype.
        blocks: KV of the chunks, constants.
        config: with ``candidate_positions`` filled in.

    Returns:
        For each prompt, float32 [num_targets, vocab].
    """
    num_chunks = sum(block.num_chunks for block in blocks)
    shared = config.candidate_positions == "shared"
    first_local = 1 if shared else num_chunks
    chunk_lens = torch.cat([torch.full((block.num_chunks,), block.chunk_len) for block in blocks])
    locals_, dynamics, targets = [], [], []
    for prompt in prompts:
        ids = list(prompt.token_ids)
        window = min(config.prompt_window, prompt.prompt_window or config.prompt_window)
        locals_.append(list(prompt.local))
        dynamics.append(ids[: -prompt.num_targets][-window:])
        targets.append(ids[-prompt.num_targets : -1])  # the last target is fed to nobody
    tails = _padded([[*dynamic, *fed] for dynamic, fed in zip(dynamics, targets, strict=True)])
    before = _padded([ids[:-1] or ids for ids in locals_])
    fed = _padded([[ids[-1], *rest] for ids, rest in zip(locals_, targets, strict=True)])
    num_prompts, num_targets = fed.shape
    # The ordinary stream: every prompt behind every chunk, and the local contexts.
    stream = OrdinaryLayout(blocks, num_prompts, tails.shape[1], before.shape[1], kernel)
    places = chunk_lens[:, None] + torch.arange(tails.shape[1])
    with torch.no_grad():
        base.run(
            torch.cat((tails.repeat_interleave(num_chunks, dim=0).flatten(), before.flatten()))[None].to(base.device),
            torch.cat(
                (
                    places.repeat(num_prompts, 1).flatten(),
                    (first_local + torch.arange(before.shape[1])).repeat(num_prompts),
                )
            )[None].to(base.device),
            stream,
        )
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
        torch.cat((fed.flatten(), fed.repeat_interleave(num_chunks, dim=0).flatten()))[None].to(base.device),
        torch.cat(((first_local + local_starts[:, None] + steps).flatten(), positions.flatten()))[None].to(base.device),
        layout,
        weights=weights,
        num_candidates=positions.numel(),
    )
    # One product with the head for all prompts: the vocabulary is large, and a call for each of many prompts is slow.
    counts = [prompt.num_targets for prompt in prompts]
    asked = torch.arange(num_targets) < torch.tensor(counts)[:, None]
    rows = asked.flatten().nonzero().squeeze(1).to(base.device)
    return list(torch.split(base.logits(hidden[0].index_select(0, rows)), counts))


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Token ids of unequal length as one tensor, int64 [len(rows), longest]; padding stands at the end."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def token_losses(logits: Sequence[Tensor], prompts: Sequence[TrainingPrompt]) -> Tensor:
    """Cross entropy in nats of the targets of all prompts in their order, from their logits [num_targets, vocab]."""
    targets = torch.tensor([token for prompt in prompts for token in prompt.token_ids[-prompt.num_targets :]])
    flat = torch.cat(tuple(logits)) if len(logits) > 1 else logits[0]
    return functional.cross_entropy(flat, targets.to(flat.device), reduction="none")


def means_and_firsts(losses: Tensor, prompts: Sequence[TrainingPrompt]) -> tuple[Tensor, Tensor]:
    """Of `token_losses`, the mean of each prompt and that of its first target, each [num_prompts]."""
    counts = torch.tensor([prompt.num_targets for prompt in prompts])
    owners = torch.arange(len(prompts)).repeat_interleave(counts).to(losses.device)
    sums = torch.zeros(len(prompts), device=losses.device).index_add(0, owners, losses)
    return sums / counts.to(losses.device), losses[(counts.cumsum(0) - counts).to(losses.device)]


def target_loss(logits: Tensor, prompt: TrainingPrompt) -> Tensor:
    """Mean cross entropy of the targets of one prompt, in nats, a scalar."""
    return token_losses([logits], [prompt]).mean()


@dataclass(frozen=True, slots=True)
class PassLimits:
    """How much goes through the model at once on one device.

    Attributes:
        gradient_rows: rows of one pass with gradient, padding included.
        pass_rows: what the passes of a batch cost whatever their length, as rows.
        read_tokens: chunk tokens that are read in one pass, about.
    """

    gradient_rows: int
    pass_rows: int
    read_tokens: int

    @classmethod
    def of(cls, base: BaseModel) -> PassLimits:
        """The limits where `base` is.

        A CPU is busy with few rows, which then stay in its cache. A GPU is not: there a pass of a thousand rows takes
        as long as one of ten thousand, since what costs is to launch its kernels, and memory is the bound.
        """
        if base.device.type != "cuda":
            return cls(gradient_rows=2048, pass_rows=300, read_tokens=2048)
        free, _ = torch.cuda.mem_get_info(base.device)
        mlp = getattr(base.config, "intermediate_size", 4 * base.config.hidden_size)
        row = base.num_layers * (_KEPT_HIDDEN * base.config.hidden_size + _KEPT_MLP * mlp) * base.dtype.itemsize
        return cls(gradient_rows=max(256, int(_SHARE * free) // row), pass_rows=20_000, read_tokens=16_384)


def batches(prompts: Sequence[TrainingPrompt], num_chunks: int, limits: PassLimits) -> Iterator[list[TrainingPrompt]]:
    """Prompts in batches: alike in length, for all are padded to the longest, and bounded in rows with gradient."""
    batch: list[TrainingPrompt] = []
    for prompt in sorted(prompts, key=lambda each: (each.num_targets, len(each.local), len(each.token_ids))):
        together = [*batch, prompt]
        too_many = prompt.num_targets * (num_chunks + 1) * len(together) > limits.gradient_rows
        apart = _cost(batch, num_chunks, limits) + _cost([prompt], num_chunks, limits)
        if batch and (too_many or _cost(together, num_chunks, limits) > apart):
            yield batch
            together = [prompt]
        batch = together
    yield batch


def _cost(prompts: Sequence[TrainingPrompt], num_chunks: int, limits: PassLimits) -> float:
    """Rows of the passes of a batch, backward ones and padding included, and what two passes cost besides."""
    if not prompts:
        return 0.0
    targets = max(prompt.num_targets for prompt in prompts)
    local = max(len(prompt.local) for prompt in prompts)
    tail = max(min(len(prompt.token_ids), (prompt.prompt_window or local) + prompt.num_targets) for prompt in prompts)
    return len(prompts) * (local + num_chunks * (tail + 2 * targets)) + limits.pass_rows
