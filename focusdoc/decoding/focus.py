"""Focus: after the first token, chunks that got no attention sit out the later steps.

What the first local token paid to each candidate is known at no cost. A chunk that sits out is neither read nor
condensed any more, so a step over a book costs what a step over its few relevant chunks costs. It is an approximation:
a chunk that only a later token would have looked at is missed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from focusdoc.config import ActiveChunks
from focusdoc.decoding.sweep import ChunkGroup, LocalContext

#: ``"auto"`` keeps the chunks that hold this share of the attention mass of the first token,
AUTO_SHARE = 0.95
#: and at least this many.
AUTO_LEAST = 8


def choose_active(mass: Tensor, active: ActiveChunks) -> list[int]:
    """The chunks that go on, in order.

    Args:
        mass: attention mass of each chunk, float32 [num_chunks].
        active: a number of chunks, or ``"auto"``; ``"all"`` keeps all.
    """
    if active == "all":
        return list(range(len(mass)))
    ranked = mass.argsort(descending=True)
    if active == "auto":
        held = mass[ranked].cumsum(0) / mass.sum().clamp_min(torch.finfo(torch.float32).tiny)
        active = max(AUTO_LEAST, int((held < AUTO_SHARE).sum()) + 1)
    chosen: list[int] = ranked[:active].sort().values.tolist()
    return chosen


def narrowed_groups(groups: Sequence[ChunkGroup], active: Sequence[int]) -> Iterator[ChunkGroup]:
    """The chunks `active` of `groups` with their tails, copied so that each group stays one piece."""
    slot = 0
    for group in groups:
        inside = [index - group.first for index in active if index in range(group.span.start, group.span.stop)]
        if inside:
            at = torch.tensor(inside, device=group.tail_keys.device)
            yield ChunkGroup(
                block=group.block.select(at),
                tail_keys=group.tail_keys.index_select(1, at),
                tail_values=group.tail_values.index_select(1, at),
                first=slot,
            )
            slot += len(inside)


def narrowed_local(local: LocalContext, num_candidates: int) -> LocalContext:
    """The local context with room for fewer candidates; what stood in their slots is of a past step."""
    keys, values = (states[:, :, local.num_candidates - num_candidates :] for states in (local.keys, local.values))
    return LocalContext(keys, values, num_candidates, local.length)
