"""Incremental mode, slowly: the reference that the engine is held against.

Everything goes through transformers' own model and caches, one chunk after another, one token after another:

* a chunk pass encodes [chunk | dynamic prompt | answer so far] anew at every step, with the candidate projections on
  its last token only; that token's keys are taken out, un-rotated and rotated again at the candidate's place;
* the local context before its last token is encoded once without candidates; each later local token is fed alone,
  on top of [the candidates of its own step | local KV], and only its own KV is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from focusdoc.decoding.looking import retrieval_scores

Pair = tuple[Tensor, Tensor]


class IncrementalReference:
    """Decodes over `chunks` (lists of token ids) with candidate `weights` (per layer: letter -> matrix).

    Attributes:
        mass: what the newest local token paid to each candidate, [chunks], mean over layers and heads.
        looks: what each candidate of the newest step looked at in its chunk, [chunk_len] each, summed over layers and
            heads with the weights `heads` [layers, heads], or 1 each.
        values: each candidate's values, [layers, kv_heads, head_dim] each.
    """

    def __init__(
        self,
        model: Any,
        weights: Sequence[dict[str, Tensor]],
        chunks: Sequence[list[int]],
        *,
        shared: bool = False,
        heads: Tensor | None = None,
    ) -> None:
        self.heads = heads
        self.model = model
        self.weights = weights
        self.chunks = chunks
        self.shared = shared
        self.layers = [layer.self_attn for layer in model.get_decoder().layers]
        self.types: list[str | None] = list(getattr(model.config, "layer_types", None) or [None] * len(self.layers))
        if not hasattr(model.get_decoder().rotary_emb, f"{self.types[0]}_inv_freq"):
            self.types = [None] * len(self.layers)

    @torch.no_grad()
    def start(self, local: list[int], prompt: list[int]) -> Tensor:
        """Logits [vocab] of the first new token."""
        self.tail = list(prompt)
        self.local: list[Pair] = []
        first = 1 if self.shared else len(self.chunks)
        self.position = first
        if len(local) > 1:
            positions = torch.arange(first, first + len(local) - 1)
            cache = DynamicCache()
            self.model(torch.tensor([local[:-1]]), position_ids=positions[None], past_key_values=cache)
            self.local = [(layer.keys, layer.values) for layer in cache.layers]
            self.position += len(local) - 1
        return self._local_step(local[-1])

    @torch.no_grad()
    def step(self, token: int) -> Tensor:
        """Logits [vocab] after `token`."""
        self.tail.append(token)
        return self._local_step(token)

    def _local_step(self, token: int) -> Tensor:
        self.looks: list[Tensor] = []
        self.values: list[Tensor] = []
        candidates = [self._candidate(index, chunk) for index, chunk in enumerate(self.chunks)]
        cache = DynamicCache()
        for layer in range(len(self.layers)):
            parts = [pair[layer] for pair in candidates] + (self.local[layer : layer + 1] if self.local else [])
            keys, values = (torch.cat([part[side] for part in parts], dim=2) for side in (0, 1))
            cache.update(keys, values, layer)
        output = self.model(
            torch.tensor([[token]]),
            position_ids=torch.tensor([[self.position]]),
            past_key_values=cache,
            output_attentions=True,
        )
        num_candidates = len(self.chunks)
        self.mass = torch.stack([weights[0, :, 0, :num_candidates] for weights in output.attentions]).mean(dim=(0, 1))
        self.local = [
            (layer.keys[:, :, num_candidates:], layer.values[:, :, num_candidates:]) for layer in cache.layers
        ]
        self.position += 1
        return output.logits[0, -1].float()

    def _candidate(self, index: int, chunk: list[int]) -> list[Pair]:
        """Keys (at their local place) and values of one chunk's candidate, per layer [1, kv_heads, 1, head_dim]."""
        handles = []
        for attention, weights in zip(self.layers, self.weights, strict=True):
            for letter, weight in weights.items():
                projection = getattr(attention, f"{letter}_proj")
                handles.append(projection.register_forward_hook(_last_token_by(weight)))
        try:
            ids = chunk + self.tail
            cache = DynamicCache()
            attentions = self.model(torch.tensor([ids]), past_key_values=cache, output_attentions=True).attentions
        finally:
            for handle in handles:
                handle.remove()
        inside = slice(len(chunk))
        looks = [
            retrieval_scores(weights[:, :, -1:, inside], layer.values[:, :, inside])
            for weights, layer in zip(attentions, cache.layers, strict=True)
        ]
        by_head = torch.stack(looks)[:, 0, :, 0]
        heads = torch.ones(by_head.shape[:2]) if self.heads is None else self.heads
        self.looks.append((by_head * heads[:, :, None]).sum(dim=(0, 1)))
        self.values.append(torch.stack([layer.values[0, :, -1] for layer in cache.layers]))
        place = 0 if self.shared else index
        return [
            (self._move(layer.keys[:, :, -1:], len(ids) - 1, place, kind), layer.values[:, :, -1:])
            for layer, kind in zip(cache.layers, self.types, strict=True)
        ]

    def _move(self, key: Tensor, source: int, target: int, kind: str | None) -> Tensor:
        """A key rotated at position `source`, rotated at `target` instead (as complex numbers)."""
        rotary = self.model.get_decoder().rotary_emb
        inverse = getattr(rotary, f"{kind}_inv_freq" if kind else "inv_freq")
        half = key.shape[-1] // 2
        turn = torch.polar(torch.ones(half), (target - source) * inverse.float())
        moved = torch.complex(key[..., :half], key[..., half:]) * turn
        return torch.cat((moved.real, moved.imag), dim=-1)


def _last_token_by(weight: Tensor) -> Any:
    def hook(module: Any, args: Any, output: Tensor) -> Tensor:
        replaced = functional.linear(args[0][:, -1:], weight, module.bias)
        return torch.cat((output[:, :-1], replaced), dim=1)

    return hook
