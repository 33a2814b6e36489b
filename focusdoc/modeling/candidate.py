"""Candidate projections: extra q/k/v/o weights beside the frozen ones, for the last rows of a pass only.

Paper, section 3.2 and equation 3: the candidate token's hidden state goes through W_Q^c, W_K^c, W_V^c, W_O^c in
every layer, every other token through the base weights. The projections are wrapped, never replaced: with no
candidate rows a wrapped model computes exactly what it computed before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

#: One layer's candidate weights by projection letter: ``{"q": [out_features, in_features], ...}``.
LayerWeights = Mapping[str, Tensor]


class CandidateRows:
    """How many rows at the end of the current pass are candidates; shared by all wrapped projections."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class CandidateLinear(nn.Module):
    """A base projection that sends the last `rows.count` positions through the candidate weight.

    Args:
        base: the frozen projection; any module that maps [..., rows, in_features] to [..., rows, out_features].
        candidate: the candidate weight [out_features, in_features], to which the base's bias, if it has one, is added;
            or a module that maps as `base` does.
    """

    def __init__(self, base: nn.Module, candidate: Tensor | nn.Module, rows: CandidateRows) -> None:
        super().__init__()
        self.base = base
        # A plain attribute: nn.Buffer would cut the weight from its graph, and training needs the gradient.
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
        # As a matrix: for a slice of a batch torch would copy the weight and call a batched product.
        # [..., count, in_features] -> [... * count, in_features]
        flat = functional.linear(rows.reshape(-1, rows.shape[-1]), self.candidate, getattr(self.base, "bias", None))
        return flat.view(*rows.shape[:-1], -1)


@contextmanager
def candidate_projections(
    attention_layers: Sequence[nn.Module], names: Mapping[str, str], weights: Sequence[LayerWeights]
) -> Iterator[CandidateRows]:
    """Wrap the projections of `attention_layers` for the time of the block; always unwrap them.

    Args:
        attention_layers: the self-attention module of every layer.
        names: the attribute that holds each projection, ``{"q": "q_proj", ...}``.
        weights: each layer's candidate weights; a projection without one stays the base's for candidates too.

    Yields:
        The row counter to set before a pass; it starts at 0.
    """
    rows = CandidateRows()
    with ExitStack() as stack:
        for layer, layer_weights in zip(attention_layers, weights, strict=True):
            for letter, weight in layer_weights.items():
                base = getattr(layer, names[letter])
                setattr(layer, names[letter], CandidateLinear(base, weight, rows))
                stack.callback(_restore, layer, names[letter], base)
        yield rows


def _restore(layer: nn.Module, name: str, base: nn.Module) -> None:
    setattr(layer, name, base)
