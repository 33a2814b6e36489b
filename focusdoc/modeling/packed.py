"""Weights packed once into the layout of the CPU's matmul kernels, for decoding steps.

A step has few rows, so its linear layers are limited by memory bandwidth, and torch's plain matmul repacks the weight
on every call. Projections of the same input (q, k and v; gate and up, unless the MLP is fused) are joined into one
matmul, to save calls. Packing does not help reading (thousands of rows) or a GPU.

A gated MLP, ``down(activation(gate(x)) * up(x))``, reads and writes its widest states three times more than the matmuls
need. It is fused: the kernels apply the activation and multiply with the gate before storing the output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import GELUTanh, SiLUActivation

from focusdoc.modeling.candidate import CandidateLinear, CandidateRows, LayerWeights
from focusdoc.modeling.families import ACTIVATION, DOWN, GATE_AND_UP, PROJECTIONS
from focusdoc.modeling.twin import Replacement, swap_in

#: Packed weights are copies, so models above this size are not packed.
MAX_BYTES = 2 << 30
#: The number of rows that the layout is optimized for; others work too.
_ROWS = 16
#: For each activation class, its name and variant in torch's oneDNN operators.
_ACTIVATIONS: dict[type[nn.Module], tuple[str, str]] = {
    nn.SiLU: ("swish", ""),
    SiLUActivation: ("swish", ""),
    GELUTanh: ("gelu", "tanh"),
}


class PackedLinear(nn.Module):
    """`functional.linear` with a packed weight [out_features, in_features] on the CPU; equal up to rounding."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)
        self.bias = None if bias is None else bias.detach()

    def forward(self, hidden: Tensor) -> Tensor:
        """Map hidden [..., in_features] to [..., out_features]."""
        rows = hidden.reshape(-1, hidden.shape[-1])
        output: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.packed, self.bias, "none", [], "")
        return output.view(*hidden.shape[:-1], -1)


class FusedMlp(nn.Module):
    """A gated MLP with packed weights and an activation of `_ACTIVATIONS`; equal to the plain one up to rounding."""

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


def fused_mlps(layers: Sequence[nn.Module]) -> list[Replacement]:
    """A fused MLP for every one of the decoder's `layers`, on the CPU, that has a gated one with known parts."""
    replacements: list[Replacement] = []
    for layer in layers:
        if (name := mlp_name(layer)) is None:
            continue
        module = layer.get_submodule(name)
        linear: list[Any] = [getattr(module, part) for part in (*GATE_AND_UP, DOWN)]
        activation = type(getattr(module, ACTIVATION, None))
        if activation in _ACTIVATIONS and all(type(each) is nn.Linear for each in linear):
            gate, up, down = linear
            replacements.append(Replacement(layer, name, FusedMlp(gate, up, down, activation)))
    return replacements


def mlp_name(layer: nn.Module) -> str | None:
    """The attribute of a decoder layer's gated MLP; None if it has none with known parts."""
    parts = (*GATE_AND_UP, DOWN)
    found = (name for name, module in layer.named_children() if all(hasattr(module, part) for part in parts))
    return next(found, None)


class JoinedLinear:
    """Several projections of one input as one matmul: the first call computes all of them, the others take their part.

    `joined` maps [..., in_features] to the concatenated outputs, of the given `sizes`.
    """

    def __init__(self, joined: nn.Module, sizes: Sequence[int]) -> None:
        self._joined = joined
        self._sizes = list(sizes)
        self._hidden: Tensor | None = None
        self._outputs: tuple[Tensor, ...] = ()

    def part(self, index: int, hidden: Tensor) -> Tensor:
        """The output of projection `index` for `hidden`; the last one clears the cache."""
        if hidden is not self._hidden:
            self._hidden, self._outputs = hidden, self._joined(hidden).split(self._sizes, dim=-1)
        output = self._outputs[index]
        if index == len(self._sizes) - 1:
            self.clear()
        return output

    def clear(self) -> None:
        """Drop the cached input and outputs."""
        self._hidden, self._outputs = None, ()


class JoinedPart(nn.Module):
    """One of the projections of a `JoinedLinear`."""

    def __init__(self, joined: JoinedLinear, index: int) -> None:
        super().__init__()
        self._whole = joined
        self._index = index

    def forward(self, hidden: Tensor) -> Tensor:
        """Map hidden [..., in_features] to [..., out_features]."""
        return self._whole.part(self._index, hidden)


class PackedProjections:
    """The candidate projections of a whole model, packed together with all its linear layers.

    Can be used wherever candidate weights are expected. Built once, attached for each pass.

    Args:
        replacements: modules that are replaced already; their contents are not packed again.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        attention_layers: Sequence[nn.Module],
        weights: Sequence[LayerWeights],
        replacements: Sequence[Replacement] = (),
    ) -> None:
        self._rows = CandidateRows()
        self._replacements = list(replacements)
        self._joined: list[JoinedLinear] = []
        joinable = (tuple(PROJECTIONS[letter] for letter in "qkv"), GATE_AND_UP)
        skipped = {replacement.parent.get_submodule(replacement.name) for replacement in replacements}
        places = {
            (attention, PROJECTIONS[letter]): weight
            for attention, layer_weights in zip(attention_layers, weights, strict=True)
            for letter, weight in layer_weights.items()
        }
        candidates = {attention.get_submodule(name): weight for (attention, name), weight in places.items()}
        for layer in layers:
            for parent in layer.modules():
                if parent in skipped:
                    continue
                linear = {name: child for name, child in parent.named_children() if type(child) is nn.Linear}
                for names in joinable:
                    group = [linear[name] for name in names if name in linear]
                    if len(group) == len(names) and _can_join(group, candidates):
                        joined = JoinedLinear(self._packed(group, candidates), [each.out_features for each in group])
                        self._joined.append(joined)
                        for index, name in enumerate(names):
                            self._replacements.append(Replacement(parent, name, JoinedPart(joined, index)))
                            del linear[name]
                for name, child in linear.items():
                    self._replacements.append(Replacement(parent, name, self._packed([child], candidates)))
        # Projections that are no plain linear layers, such as those of another adapter, are wrapped without packing.
        replaced = {(replacement.parent, replacement.name) for replacement in self._replacements}
        for (attention, name), weight in places.items():
            if (attention, name) in replaced:
                continue
            module = attention.get_submodule(name)
            if isinstance(module, CandidateLinear | JoinedPart | PackedLinear):
                raise RuntimeError(f"{name} was packed during a pass, while modules are replaced; hold the lock.")
            self._replacements.append(Replacement(attention, name, CandidateLinear(module, weight, self._rows)))

    def _packed(self, group: Sequence[nn.Linear], candidates: Mapping[nn.Module, Tensor]) -> nn.Module:
        """One module for all of `group`, with concatenated outputs."""
        bias = None if group[0].bias is None else torch.cat([module.bias for module in group])
        plain = PackedLinear(torch.cat([module.weight for module in group]), bias)
        if group[0] not in candidates:
            return plain
        return CandidateLinear(
            plain, PackedLinear(torch.cat([candidates[module] for module in group]), bias), self._rows
        )

    @contextmanager
    def attached(self) -> Iterator[CandidateRows]:
        """Swap in the packed modules inside the block; yields the row counter, at 0."""
        try:
            with swap_in(self._replacements):
                yield self._rows
        finally:
            self._rows.count = 0
            for joined in self._joined:
                joined.clear()


def _can_join(group: Sequence[nn.Linear], candidates: Mapping[nn.Module, Tensor]) -> bool:
    """Whether all or none have a bias, and all or none a candidate weight."""
    return len({module.bias is None for module in group}) == 1 and len({module in candidates for module in group}) == 1


def can_pack(model: nn.Module) -> bool:
    """Whether torch has the kernels, and the weights are on the CPU and not too large."""
    parameters = list(model.parameters())
    return (
        hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and all(each.device.type == "cpu" and each.dtype in (torch.float32, torch.bfloat16) for each in parameters)
        and sum(each.nbytes for each in parameters) <= MAX_BYTES
        and (parameters[0].dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )
