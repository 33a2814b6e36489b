"""Weights laid out once as the CPU's matrix kernels read them, for decoding steps.

A step has few rows, so its linear layers cost what it costs to stream their weights; torch's plain product lays a
matrix out anew every time it is used. Packing is worth nothing for reading (thousands of rows) or on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from focusdoc.modeling.candidate import CandidateLinear, CandidateRows, LayerWeights
from focusdoc.modeling.families import Family

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
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)
        self.bias = None if bias is None else bias.detach()

    def forward(self, hidden: Tensor) -> Tensor:
        """Map hidden [..., in_features] to [..., out_features]."""
        rows = hidden.reshape(-1, hidden.shape[-1])
        output: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._packed, self.bias, "none", [], "")
        return output.view(*hidden.shape[:-1], -1)


class PackedProjections:
    """Candidate projections of a whole model, with every linear layer of it packed as well.

    Stands wherever candidate weights are expected; built once, attached for single passes.

    Args:
        layers: the decoder's layers. attention_layers: their self-attention modules.
        weights: candidate weights of every layer.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        attention_layers: Sequence[nn.Module],
        family: Family,
        weights: Sequence[LayerWeights],
    ) -> None:
        self._rows = CandidateRows()
        #: Where each module hangs: its parent's table of children, its name there, itself, and what stands in for it.
        self._places: list[tuple[dict[str, nn.Module | None], str, nn.Module, nn.Module]] = []
        candidates: dict[nn.Module, Tensor] = {}
        for attention, layer_weights in zip(attention_layers, weights, strict=True):
            for letter, weight in layer_weights.items():
                candidates[getattr(attention, family.attributes[letter])] = weight
        for layer in layers:
            for parent in layer.modules():
                for name, child in parent.named_children():
                    if child in candidates:
                        stand_in: nn.Module = CandidateLinear(
                            packed_linear(child),
                            PackedLinear(candidates[child], getattr(child, "bias", None)),
                            self._rows,
                        )
                    elif type(child) is nn.Linear:
                        stand_in = packed_linear(child)
                    else:
                        continue
                    self._places.append((parent._modules, name, child, stand_in))

    @contextmanager
    def attached(self) -> Iterator[CandidateRows]:
        """The packed modules in the model's place for the time of the block; yields the row counter, at 0."""
        try:
            for table, name, _, stand_in in self._places:
                table[name] = stand_in
            yield self._rows
        finally:
            self._rows.count = 0
            for table, name, original, _ in self._places:
                table[name] = original


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
