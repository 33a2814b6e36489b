"""Candidate projections: extra q/k/v/o weights beside the frozen ones, applied to the last rows of a pass.

Paper, section 3.2 and equation 3: the candidate token's hidden state goes through W_Q^c, W_K^c, W_V^c, W_O^c in every
layer, all other tokens through the base weights. The projections are wrapped, not replaced: without candidate rows the
model's output is bit-identical.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from focusdoc.modeling.families import PROJECTIONS
from focusdoc.modeling.twin import Replacement, swap_in

#: One layer's candidate weights by projection letter: ``{"q": [out_features, in_features], ...}``.
LayerWeights = Mapping[str, Tensor]


@dataclass(slots=True)
class CandidateRows:
    """The number of candidate rows at the end of the current pass; shared by all wrapped projections."""

    count: int = 0


class CandidateLinear(nn.Module):
    """A base projection that applies the candidate weight to the last `rows.count` rows.

    Args:
        base: the frozen projection; any module that maps [..., rows, in_features] to [..., rows, out_features].
        candidate: the candidate weight [out_features, in_features], used with the base's bias; or a module like `base`.
    """

    def __init__(self, base: nn.Module, candidate: Tensor | nn.Module, rows: CandidateRows) -> None:
        super().__init__()
        self.base = base
        # A plain attribute: nn.Buffer would detach the weight, and training needs its gradient.
        self.candidate = candidate
        self.rows = rows

    def forward(self, hidden: Tensor) -> Tensor:
        """Map hidden [..., rows, in_features] to [..., rows, out_features]."""
        count = self.rows.count
        if count == 0:
            return self.base(hidden)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped
        candidates = self._map(hidden[..., -count:, :])
        if count == hidden.shape[-2]:
            return candidates
        return torch.cat((self.base(hidden[..., :-count, :]), candidates), dim=-2)

    def _map(self, rows: Tensor) -> Tensor:
        if isinstance(self.candidate, nn.Module):
            return self.candidate(rows)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped
        # Flattened: for a slice of a batch, torch would copy the weight and call a batched matmul.
        # [..., count, in_features] -> [... * count, in_features]
        flat = functional.linear(rows.reshape(-1, rows.shape[-1]), self.candidate, getattr(self.base, "bias", None))
        return flat.view(*rows.shape[:-1], -1)


@contextmanager
def candidate_projections(
    attention_layers: Sequence[nn.Module], weights: Sequence[LayerWeights]
) -> Iterator[CandidateRows]:
    """Wrap the projections of `attention_layers` inside the block; yields the row counter, to be set before a pass.

    Args:
        weights: each layer's candidate weights; projections without one use the base's for candidates too.
    """
    rows = CandidateRows()
    wrapped: list[Replacement] = []
    for layer, layer_weights in zip(attention_layers, weights, strict=True):
        for letter, weight in layer_weights.items():
            base = layer.get_submodule(PROJECTIONS[letter])
            wrapped.append(Replacement(layer, PROJECTIONS[letter], CandidateLinear(base, weight, rows)))
    with swap_in(wrapped):
        yield rows
