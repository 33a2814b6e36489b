"""Weights laid out once as the CPU's matrix kernels read them, for decoding steps.

A step has few rows, so its linear layers cost what it costs to stream their weights; torch's plain product lays a
matrix out anew every time it is used. Projections of the same input (q, k and v; gate and up, where the MLP is not
fused as a whole) are one product, for each product has its price besides. Packing by itself is worth nothing for
reading (thousands of rows) or on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from focusdoc.modeling.candidate import CandidateLinear, CandidateRows, LayerWeights
from focusdoc.modeling.families import Family
from focusdoc.modeling.stand_in import Place, standing_in

#: Packed weights stand beside the plain ones, so larger models are left as they are.
MAX_BYTES = 2 << 30
#: The number of rows that the layout is chosen for; any other works with it.
_ROWS = 16


class PackedLinear(nn.Module):
    """`functional.linear` for one weight, packed; equal to it up to the rounding of the dtype.

    Args:
        weight: [out_features, in_features], on the CPU.
        bias: [out_features] or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)
        self.bias = None if bias is None else bias.detach()

    def forward(self, hidden: Tensor) -> Tensor:
        """Map hidden [..., in_features] to [..., out_features]."""
        rows = hidden.reshape(-1, hidden.shape[-1])
        output: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.packed, self.bias, "none", [], "")
        return output.view(*hidden.shape[:-1], -1)


class JoinedLinear:
    """Several projections of one input as one product: the first to be asked makes all, the others take their part.

    Args:
        joined: maps [..., in_features] to all outputs, one behind the other.
        sizes: out_features of each.
    """

    def __init__(self, joined: nn.Module, sizes: Sequence[int]) -> None:
        self._joined = joined
        self._sizes = list(sizes)
        self._hidden: Tensor | None = None
        self._outputs: tuple[Tensor, ...] = ()

    def part(self, index: int, hidden: Tensor) -> Tensor:
        """What projection `index` makes of `hidden`; the last one lets go of it."""
        if hidden is not self._hidden:
            self._hidden, self._outputs = hidden, self._joined(hidden).split(self._sizes, dim=-1)
        output = self._outputs[index]
        if index == len(self._sizes) - 1:
            self.forget()
        return output

    def forget(self) -> None:
        """Let go of the input and of what was made of it."""
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
    """Candidate projections of a whole model, with every linear layer of it packed as well.

    Stands wherever candidate weights are expected; built once, attached for single passes.

    Args:
        layers: the decoder's layers. attention_layers: their self-attention modules.
        weights: candidate weights of every layer.
        places: modules that have a stand-in already; nothing inside them is packed once more.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        attention_layers: Sequence[nn.Module],
        family: Family,
        weights: Sequence[LayerWeights],
        places: Sequence[Place] = (),
    ) -> None:
        self._rows = CandidateRows()
        self._places = list(places)
        self._joined: list[JoinedLinear] = []
        together = (tuple(family.attributes[letter] for letter in "qkv"), family.gate_and_up)
        taken = {place.parent.get_submodule(place.name) for place in places}
        candidates: dict[nn.Module, Tensor] = {}
        for attention, layer_weights in zip(attention_layers, weights, strict=True):
            for letter, weight in layer_weights.items():
                candidates[getattr(attention, family.attributes[letter])] = weight
        for layer in layers:
            for parent in layer.modules():
                if parent in taken:
                    continue
                linear = {name: child for name, child in parent.named_children() if type(child) is nn.Linear}
                for names in together:
                    group = [linear[name] for name in names if name in linear]
                    if len(group) == len(names) and _alike(group, candidates):
                        self._stand_in(parent, names, self._join(group, candidates))
                        linear = {name: child for name, child in linear.items() if name not in names}
                for name, child in linear.items():
                    self._stand_in(parent, [name], [self._packed([child], candidates)])
        self._place_others(attention_layers, family, weights)

    def _place_others(
        self, attention_layers: Sequence[nn.Module], family: Family, weights: Sequence[LayerWeights]
    ) -> None:
        """Candidates of projections that are no plain linear layers, such as those of another adapter, unpacked."""
        placed = {(place.parent, place.name) for place in self._places}
        for attention, layer_weights in zip(attention_layers, weights, strict=True):
            for letter, weight in layer_weights.items():
                name = family.attributes[letter]
                if (attention, name) in placed:
                    continue
                module = attention.get_submodule(name)
                if isinstance(module, CandidateLinear | JoinedPart | PackedLinear):
                    raise RuntimeError(f"{name} was packed during a pass, which holds a stand-in; pack under the lock.")
                self._stand_in(attention, [name], [CandidateLinear(module, weight, self._rows)])

    def _stand_in(self, parent: nn.Module, names: Sequence[str], modules: Sequence[nn.Module]) -> None:
        self._places += [Place(parent, name, module) for name, module in zip(names, modules, strict=True)]

    def _join(self, group: Sequence[nn.Linear], candidates: Mapping[nn.Module, Tensor]) -> list[nn.Module]:
        """Stand-ins for projections of the same input."""
        joined = JoinedLinear(self._packed(group, candidates), [module.out_features for module in group])
        self._joined.append(joined)
        return [JoinedPart(joined, index) for index in range(len(group))]

    def _packed(self, group: Sequence[nn.Linear], candidates: Mapping[nn.Module, Tensor]) -> nn.Module:
        """One module for all of `group`, their outputs one behind the other."""
        bias = None if group[0].bias is None else torch.cat([module.bias for module in group])
        plain = PackedLinear(torch.cat([module.weight for module in group]), bias)
        if group[0] not in candidates:
            return plain
        return CandidateLinear(
            plain, PackedLinear(torch.cat([candidates[module] for module in group]), bias), self._rows
        )

    @contextmanager
    def attached(self) -> Iterator[CandidateRows]:
        """The packed modules in the model's place for the time of the block; yields the row counter, at 0."""
        try:
            with standing_in(self._places):
                yield self._rows
        finally:
            self._rows.count = 0
            for joined in self._joined:
                joined.forget()


def _alike(group: Sequence[nn.Linear], candidates: Mapping[nn.Module, Tensor]) -> bool:
    """Whether all or none of these have a bias, and all or none a candidate weight."""
    return len({module.bias is None for module in group}) == 1 and len({module in candidates for module in group}) == 1


def packed_linear(module: nn.Module) -> nn.Module:
    """`module` packed, if it is a plain linear layer."""
    return PackedLinear(module.weight, module.bias) if type(module) is nn.Linear else module


def can_pack(model: nn.Module) -> bool:
    """Whether packing is possible and bearable: torch has the kernels, and the weights are small and on the CPU."""
    parameters = list(model.parameters())
    return (
        hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and all(each.device.type == "cpu" and each.dtype in (torch.float32, torch.bfloat16) for each in parameters)
        and sum(each.nbytes for each in parameters) <= MAX_BYTES
        and (parameters[0].dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )
