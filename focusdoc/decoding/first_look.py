"""The first look: where in their chunks the candidates looked that `start` made.

What they asked is kept, so a look takes the attention's weights once more, and no pass through the layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from focusdoc.attention import visibility
from focusdoc.decoding.looking import gathered
from focusdoc.decoding.sweep import CandidateQueries, ChunkGroup


@dataclass(frozen=True, slots=True)
class Looker:
    """A chunk to look into.

    Attributes:
        chunk: its index among all chunks.
        group: the chunk alone with its tail.
    """

    chunk: int
    group: ChunkGroup


def first_look(lookers: Sequence[Looker], asked: Sequence[Sequence[CandidateQueries]], tail_len: int) -> list[Tensor]:
    """How much the candidates of the first sweeps looked at each token of their chunk: one float32 [chunk_len] each.

    Args:
        asked: for each sweep, in the order of the chunks, what its candidates asked in every layer.
        tail_len: tokens of the dynamic prompt before the candidate.

    Returns:
        `gathered`, summed over heads and layers, in the order of `lookers`.
    """
    found: dict[int, Tensor] = {}
    for length in {looker.group.chunk_len for looker in lookers}:
        alike = [looker for looker in lookers if looker.group.chunk_len == length]
        looked = sum(_layer_look(alike, layer, rows, tail_len) for layer, rows in enumerate(zip(*asked, strict=True)))
        found |= zip((looker.chunk for looker in alike), looked, strict=True)  # type: ignore[arg-type]
    return [found[looker.chunk].cpu() for looker in lookers]


def _layer_look(lookers: Sequence[Looker], layer: int, sweeps: Sequence[CandidateQueries], tail_len: int) -> Tensor:
    """The look of one layer into chunks of one length, float32 [lookers, chunk_len]."""
    chunks = [looker.chunk for looker in lookers]
    # [heads, all chunks, head_dim] -> [lookers, heads, head_dim]
    queries = torch.cat([rows.queries for rows in sweeps], dim=1)[:, chunks].transpose(0, 1)
    own = torch.cat([rows.keys for rows in sweeps], dim=1)[:, chunks].transpose(0, 1)
    chunk_len = lookers[0].group.chunk_len
    num_keys = chunk_len + tail_len + 1
    keys = torch.empty((*own.shape[:2], num_keys, own.shape[2]), device=own.device)
    values = own.new_empty((*own.shape[:2], chunk_len, own.shape[2]))
    keys[:, :, -1] = own
    for row, looker in enumerate(lookers):
        stored_keys, stored_values = looker.group.block.layer(layer, own.dtype)
        keys[row, :, :chunk_len], values[row] = stored_keys[0], stored_values[0]
        keys[row, :, chunk_len:-1] = looker.group.tail_keys[layer, 0, :, :tail_len]
    # [lookers, heads, head_dim] -> [lookers, num_kv_heads, heads per KV head, head_dim]
    scores = torch.unflatten(queries, 1, (own.shape[1], -1)) @ keys.mT
    seen = visibility(1, num_keys, query_start=num_keys - 1, window=sweeps[0].window, device=own.device)
    if seen is not None:
        scores = scores.masked_fill(~seen[0], -torch.inf)
    weights = scores.softmax(dim=-1)[..., :chunk_len]
    # [lookers, num_kv_heads, heads per KV head, chunk_len] -> [lookers, heads, 1, chunk_len]
    return gathered(weights.flatten(1, 2).unsqueeze(2), values).sum(dim=(1, 2))
