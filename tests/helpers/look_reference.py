"""A look, slowly: transformers' own attention weights, chunk by chunk, and the model's own answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from focusdoc.decoding.looking import retrieval_scores
from focusdoc.modeling.base import BaseModel


@torch.no_grad()
def look_reference(
    base: BaseModel, chunks: Sequence[Sequence[int]], prompt: list[int], rows: range, heads: Sequence[tuple[int, int]]
) -> list[Tensor]:
    """What each of `heads` takes from every token of each chunk for the `rows` of the prompt: [heads, chunk_len]."""
    per_key = base.num_heads // base.num_kv_heads
    found = []
    for chunk in chunks:
        cache = DynamicCache()  # of full layers, whatever their windows
        ids = torch.tensor([[*chunk, *prompt]])
        output = base.model(ids, past_key_values=cache, output_attentions=True, use_cache=True)
        places = slice(len(chunk) + rows.start, len(chunk) + rows.stop)
        looks = []
        for layer, head in heads:
            weights = output.attentions[layer][:, head : head + 1, places, : len(chunk)]
            own = slice(head // per_key, head // per_key + 1)
            values = cache.layers[layer].values[:, own, : len(chunk)]
            looks.append(retrieval_scores(weights, values)[0, 0].sum(dim=0))
        found.append(torch.stack(looks))
    return found


def together(looks: Sequence[Tensor]) -> list[Tensor]:
    """Each head against the most that it takes anywhere, and all of them added up: float32 [chunk_len] each."""
    most = torch.cat([look.amax(dim=1, keepdim=True) for look in looks], dim=1).amax(dim=1)
    return [sum(look[head] / most[head] for head in range(len(most))) for look in looks]  # type: ignore[misc]


@torch.no_grad()
def greedy(base: BaseModel, ids: Sequence[int], steps: int) -> list[int]:
    """The model's own greedy answer, every step a pass of the whole."""
    given = list(ids)
    for _ in range(steps):
        given.append(int(base.model(torch.tensor([given]), use_cache=False).logits[0, -1].argmax()))
    return given[len(ids) :]
