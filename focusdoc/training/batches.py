"""Which prompts of a sample go through the model together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from focusdoc.modeling.base import BaseModel
from focusdoc.training.dense import TrainingPrompt

#: What a row of a pass with gradient keeps for the backward pass, in hidden states and in MLP states of every layer.
_KEPT_HIDDEN, _KEPT_MLP = 30, 6
#: Share of a GPU's free memory that these rows may take; attention's scores and the logits take from the rest.
_SHARE = 0.3


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
