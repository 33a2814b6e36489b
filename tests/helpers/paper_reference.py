"""The authors' decoding as its specification says it, pass by pass: slow, obvious, for a Llama model.

A pass computes tokens behind the un-rotated keys and values of a past; all positions are 0.. over both. With a
candidate, the last token goes through the candidate projections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

#: Keys (un-rotated) and values of every layer, each [num_kv_heads, tokens, head_dim].
Past = list[tuple[Tensor, Tensor]]


class PaperReference:
    """Greedy decoding of the authors' code.

    Args:
        model: a Llama model of transformers.
        weights: candidate weights of every layer, ``[{"q": ..., "k": ..., "v": ..., "o": ...}, ...]``.
    """

    def __init__(self, model: Any, weights: Sequence[dict[str, Tensor]], *, window: int, chunk: int, threshold: int):
        self.model, self.weights = model, weights
        self.window, self.chunk, self.threshold = window, chunk, threshold
        self.bos: int = model.config.bos_token_id

    @torch.no_grad()
    def decode(self, ids: list[int], steps: int) -> tuple[list[int], Tensor]:
        """The next `steps` tokens and the logits [steps, vocab] that they were chosen from."""
        if len(ids) < self.threshold:
            chunks, local = [], ids
        else:
            split = len(ids) - self.window
            chunks = [ids[at : min(at + self.chunk, split)] for at in range(0, split, self.chunk)]
            local = ids[split:]
        prompt = self._with_bos(local[-min(512, self.chunk, self.window) :])
        caches, candidates = [], []
        for each in chunks:
            _, made = self._pass([*each, *prompt], None, candidate=True)
            caches.append([(keys[:, :-1], values[:, :-1]) for keys, values in made])
            candidates.append([(keys[:, -1:], values[:, -1:]) for keys, values in made])
        found: list[int] = []
        logits = [self._local(candidates, local)]
        while len(found) < steps:
            previous = (local + found)[-1]
            found.append(int(logits[-1].argmax()))
            if len(found) == steps:
                break
            candidates = []
            for index, cache in enumerate(caches):
                _, made = self._pass([previous, found[-1]], cache, candidate=True)
                caches[index] = [
                    (torch.cat((old, keys[:, :1]), 1), torch.cat((old_values, values[:, :1]), 1))
                    for (old, old_values), (keys, values) in zip(cache, made, strict=True)
                ]
                candidates.append([(keys[:, 1:], values[:, 1:]) for keys, values in made])
            logits.append(self._local(candidates, local + found))
        return found, torch.stack(logits)

    def _local(self, candidates: Sequence[Past], local: list[int]) -> Tensor:
        past = None
        if candidates:
            past = [
                (torch.cat([keys for keys, _ in layer], 1), torch.cat([values for _, values in layer], 1))
                for layer in zip(*candidates, strict=True)
            ]
        return self._pass(self._with_bos(local), past, candidate=False)[0]

    def _with_bos(self, ids: list[int]) -> list[int]:
        return ids if ids[0] == self.bos else [self.bos, *ids]

    def _pass(self, ids: list[int], past: Past | None, *, candidate: bool) -> tuple[Tensor, Past]:
        """Logits [vocab] of the last token, and the un-rotated keys and values of all tokens of the pass."""
        decoder, config = self.model.model, self.model.config
        hidden = decoder.embed_tokens(torch.tensor(ids))
        made: Past = []
        for index, layer in enumerate(decoder.layers):
            own = self.weights[index]

            def project(letter: str, rows: Tensor, layer: Any = layer, own: dict[str, Tensor] = own) -> Tensor:
                base = getattr(layer.self_attn, f"{letter}_proj")
                mapped = base(rows)
                if candidate and letter in own:
                    mapped = torch.cat((mapped[:-1], functional.linear(rows[-1:], own[letter], base.bias)))
                return mapped

            rows = layer.input_layernorm(hidden)
            heads = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
            query, key, value = (
                project(letter, rows).view(len(ids), count, -1).transpose(0, 1)
                for letter, count in zip("qkv", heads, strict=True)
            )
            made.append((key, value))
            if past is not None:
                key, value = torch.cat((past[index][0], key), 1), torch.cat((past[index][1], value), 1)
            places = torch.arange(key.shape[1])
            cos, sin = (table[0] for table in decoder.rotary_emb(hidden, places[None]))
            groups = heads[0] // heads[1]
            turned = _rotated(key, cos, sin).repeat_interleave(groups, 0)
            asked = _rotated(query, cos[-len(ids) :], sin[-len(ids) :])
            scores = asked @ turned.mT / query.shape[-1] ** 0.5
            later = places[None, :] > places[-len(ids) :, None]
            weights = scores.masked_fill(later, -torch.inf).softmax(-1)
            mixed = (weights @ value.repeat_interleave(groups, 0)).transpose(0, 1).flatten(1)
            hidden = hidden + project("o", mixed)
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return self.model.lm_head(decoder.norm(hidden[-1:]))[0], made


def _rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = states.shape[-1] // 2
    return states * cos + torch.cat((-states[..., half:], states[..., :half]), -1) * sin
