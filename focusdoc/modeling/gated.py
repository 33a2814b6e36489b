"""Gated MLPs with the activation and the gating fused into the CPU's matmul kernels.

``down(activation(gate(x)) * up(x))`` reads and writes its widest states three times more than the matmuls need. The
oneDNN kernels apply the activation and multiply with the gate before storing the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import GELUTanh, SiLUActivation

from focusdoc.modeling.families import Family
from focusdoc.modeling.packed import PackedLinear
from focusdoc.modeling.twin import Replacement

#: For each activation class, its name and variant in torch's oneDNN operators.
_ACTIVATIONS: dict[type[nn.Module], tuple[str, str]] = {
    nn.SiLU: ("swish", ""),
    SiLUActivation: ("swish", ""),
    GELUTanh: ("gelu", "tanh"),
}


class FusedMlp(nn.Module):
    """A gated MLP with packed weights; equal to the plain one up to rounding.

    Args:
        activation: a key of `_ACTIVATIONS`.
    """

    def __init__(self, gate: nn.Linear, up: nn.Linear, down: nn.Linear, activation: type[nn.Module]) -> None:
        super().__init__()
        self._gate, self._up, self._down = (PackedLinear(each.weight, each.bias) for each in (gate, up, down))
        self._activation, self._variant = _ACTIVATIONS[activation]

    def forward(self, hidden: Tensor) -> Tensor:
        """Map hidden [..., hidden_size] to [..., hidden_size]."""
        rows = hidden.reshape(-1, hidden.shape[-1])
        linear = torch.ops.mkldnn._linear_pointwise
        gate = linear(rows, self._gate.packed, self._gate.bias, self._activation, [], self._variant)
        gated = linear.binary(rows, gate, self._up.packed, self._up.bias, "mul")
        output: Tensor = self._down(gated)
        return output.view(*hidden.shape[:-1], -1)


def fused_mlps(layers: Sequence[nn.Module], family: Family) -> list[Replacement]:
    """A fused MLP for every layer that has a gated one with known parts.

    Args:
        layers: the decoder's layers, on the CPU; see `focusdoc.modeling.packed.can_pack`.
    """
    replacements: list[Replacement] = []
    for layer in layers:
        if (name := mlp_name(layer, family)) is None:
            continue
        module = layer.get_submodule(name)
        linear: list[Any] = [getattr(module, part) for part in (*family.gate_and_up, family.down)]
        activation = type(getattr(module, family.activation, None))
        if activation in _ACTIVATIONS and all(type(each) is nn.Linear for each in linear):
            gate, up, down = linear
            replacements.append(Replacement(layer, name, FusedMlp(gate, up, down, activation)))
    return replacements


def mlp_name(layer: nn.Module, family: Family) -> str | None:
    """The attribute of a decoder layer's gated MLP; None if it has none with known parts."""
    parts = (*family.gate_and_up, family.down)
    found = (name for name, module in layer.named_children() if all(hasattr(module, part) for part in parts))
    return next(found, None)
