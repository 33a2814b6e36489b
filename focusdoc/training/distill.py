"""Distillation: the frozen base model, with the whole text in its own context, as the teacher of the candidates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from focusdoc.modeling.base import BaseModel


@torch.no_grad()
def teacher_logits(base: BaseModel, token_ids: Sequence[int], num_targets: int) -> Tensor | None:
    """What the base model itself says at the last `num_targets` tokens, with all of `token_ids` in its context.

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
