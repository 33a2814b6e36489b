"""The paper's objective: one target token per sample, as in the authors' published code.

A span of a long text is the local context and the next token the target; the chunks are the text before the span
(continuation) or the whole text, span and target included (repetition). All local rows attend to the candidates
(refresh mode), so a sample trains one target; `focusdoc.training.dense` trains many.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from focusdoc.attention import AttentionKernel
from focusdoc.config import PAPER_PROMPT_WINDOW, CandidatePositions, FocusConfig
from focusdoc.decoding.condense import DenseSweep, RefreshedLocal
from focusdoc.decoding.parallel import RefreshedDecoder
from focusdoc.errors import ConfigError, TrainingError
from focusdoc.memory.reading import read_chunks
from focusdoc.modeling.base import BaseModel
from focusdoc.modeling.candidate import LayerWeights

#: Shortest local context, in tokens.
SMALLEST_LOCAL = 30
#: Chunk tokens that go through the base model in one pass.
_TOKENS_PER_PASS = 2048


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
