"""The dense objective: every target token of a prompt is trained in one pass.

The paper trains one target token per sample. In incremental mode each token has its own candidates, which see no
other candidates, so the T targets of a prompt share one pass: an ordinary stream without gradient gives the KV of
chunks, tails and local prefix; candidates and local rows of all T targets run above it with gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from focusdoc.attention import AttentionKernel
from focusdoc.config import FocusConfig
from focusdoc.decoding.condense import DenseSweep
from focusdoc.decoding.local_rows import LocalStretch
from focusdoc.decoding.parallel import ParallelDecoder
from focusdoc.errors import ConfigError
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.modeling.base import BaseModel
from focusdoc.modeling.candidate import LayerWeights


@dataclass(frozen=True, slots=True)
class TrainingPrompt:
    """A local context whose last tokens are targets.

    Attributes:
        token_ids: the local context and the targets.
        num_targets: how many of the last tokens are targets; at least one token must stand before them.
        objective: the name under which its loss is reported.
    """

    token_ids: tuple[int, ...]
    num_targets: int
    objective: str

    def __post_init__(self) -> None:
        if not 1 <= self.num_targets < len(self.token_ids):
            raise ConfigError(
                f"num_targets is {self.num_targets} of {len(self.token_ids)} tokens; it must leave at least one before."
            )


def dense_logits(
    base: BaseModel,
    weights: Sequence[LayerWeights],
    blocks: Sequence[MemoryBlock],
    prompt: TrainingPrompt,
    config: FocusConfig,
    kernel: AttentionKernel,
) -> Tensor:
    """Logits of every target, teacher-forced, with gradients for `weights`.

    They equal what `ParallelDecoder` in incremental mode gives step by step.

    Args:
        weights: candidate weights of every layer, in the model's dtype.
        blocks: KV of the chunks, constants.
        config: with ``candidate_positions`` filled in.

    Returns:
        Float32 [num_targets, vocab].
    """
    num_targets = prompt.num_targets
    ids = list(prompt.token_ids)
    local_ids, fed = ids[:-num_targets], ids[-num_targets - 1 : -1]
    dynamic = local_ids[-config.prompt_window :]
    decoder = ParallelDecoder(
        base, [{}] * base.num_layers, blocks, kernel=kernel, config=config, max_new_tokens=num_targets
    )
    # The ordinary stream of all but the last target; the decoder's own last row is the one nobody needs.
    decoder.start(local_ids, dynamic + ids[-num_targets:-1])
    prefix = slice(decoder.num_chunks, decoder.num_chunks + len(local_ids) - 1)
    steps = torch.arange(num_targets)
    tail_start = len(dynamic) - 1
    tokens, positions, distances = [], [], []
    for group in decoder.groups:
        places = group.chunk_len + tail_start + steps
        tokens.append(torch.tensor(fed).repeat(group.num_chunks))
        positions.append(places.repeat(group.num_chunks))
        distances.append((decoder.candidate_positions(group)[:, None] - places).to(base.device))
    layout = DenseSweep(
        groups=decoder.groups,
        num_targets=num_targets,
        tail_start=tail_start,
        rotary=base.rotary,
        kernel=kernel,
        local=LocalStretch(decoder.local.keys[:, :, prefix], decoder.local.values[:, :, prefix], distances),
    )
    hidden = base.run(
        torch.cat([torch.tensor(fed), *tokens])[None].to(base.device),
        torch.cat([decoder.local_start + len(local_ids) - 1 + steps, *positions])[None].to(base.device),
        layout,
        weights=weights,
        num_candidates=num_targets * decoder.num_chunks,
    )
    return base.logits(hidden[0, :num_targets])


def target_loss(logits: Tensor, prompt: TrainingPrompt) -> Tensor:
    """Mean cross entropy of the targets, in nats, from logits [num_targets, vocab]."""
    targets = torch.tensor(prompt.token_ids[-prompt.num_targets :], device=logits.device)
    return functional.cross_entropy(logits, targets)
