"""Low-bit decoding: a model with quantized weights for few rows and its own weights for many.

A decoding step has one row, so memory bandwidth limits its linear layers: 4-bit weights take a quarter of the time.
Passes with many rows are limited by compute, which is several times faster in bfloat16. So a twin of the model has both
kinds of weights, and each linear layer chooses by the number of rows.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from focusdoc.modeling.twin import twin, use_attention

Array = np.ndarray[Any, Any]
#: Columns of a 4-bit weight that share a scale and a zero point.
GROUP = 32
#: Rows per tile in the layout of torch's kernel on CPUs with AVX-512.
TILE = 64
#: Up to this many rows the low-bit weights are faster.
FEW_ROWS = 8
#: Inputs are split into two int8 rows; the second is the remainder in steps of 1/254 of the first's step.
_PARTS = 254


class Int4Product(nn.Module):
    """Matmul with the 4-bit weights of a linear layer, from the file of `focusdoc.modeling.conversion`."""

    def __init__(self, packed: Tensor, scales_and_zeros: Tensor) -> None:
        super().__init__()
        self._weights = packed, GROUP, scales_and_zeros

    def forward(self, rows: Tensor) -> Tensor:
        """Map bfloat16 [rows, in_features] to [rows, out_features]."""
        output: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, *self._weights)
        return output


class Int8Product(nn.Module):
    """Matmul with int8 weights [out_features, in_features]; inputs are quantized to 16 bits per row."""

    def __init__(self, weight: Tensor, scales: Tensor) -> None:
        super().__init__()
        packed = torch.ops.onednn.qlinear_prepack(weight, [2, weight.shape[1]])
        # Inputs are uint8 with zero point 128; outputs are float32.
        self._weights = 1.0, 128, packed, scales, torch.zeros(len(scales), dtype=torch.int32)
        self._output: tuple[object, ...] = (None, 1.0, 0, torch.float32, "none", [], "")

    def forward(self, rows: Tensor) -> Tensor:
        """Map bfloat16 [rows, in_features] to [rows, out_features]."""
        exact = rows.float()
        step = exact.abs().amax(dim=-1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny * 127).div_(127)
        exact = exact / step
        coarse = exact.round()
        both = torch.cat([coarse, exact.sub_(coarse).mul_(_PARTS).round_()]).add_(128).to(torch.uint8)
        first, second = torch.ops.onednn.qlinear_pointwise(both, *self._weights, *self._output).chunk(2)
        return torch.add(first, second, alpha=1 / _PARTS).mul_(step).to(rows.dtype)


class FewRowLinear(nn.Module):
    """A linear layer with its `own` weights for many rows, and a low-bit matmul without bias for `few`."""

    def __init__(self, own: nn.Linear, few: nn.Module) -> None:
        super().__init__()
        self.own, self.few = own, few

    def forward(self, hidden: Tensor) -> Tensor:
        """Map hidden [..., in_features] to [..., out_features]."""
        rows = hidden.numel() // hidden.shape[-1]
        if rows > FEW_ROWS:
            return self.own(hidden)  # type: ignore[no-any-return]  # nn.Module's call is untyped
        output: Tensor = self.few(hidden.reshape(rows, -1))
        if self.own.bias is not None:
            output = output + self.own.bias
        return output.view(*hidden.shape[:-1], -1)


def few_row_twin(model: nn.Module, file: Path) -> nn.Module:
    """A twin of `model` with low-bit weights for few rows, and faster attention for a single row.

    Returns `model` itself if this CPU or the dtype does not benefit.

    Args:
        file: made for its linear layers; see `focusdoc.modeling.conversion`. It is memory-mapped; int8 weights are
            repacked.
    """
    weight = next(model.parameters())
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16 or not _has_kernels():
        return model
    result = twin(model)
    weights = load_file(file)
    for name, module in list(result.named_modules()):
        few: nn.Module
        if f"{name}.int4" in weights:
            few = Int4Product(weights[f"{name}.int4"], weights[f"{name}.scales_and_zeros"])
        elif f"{name}.int8" in weights:
            few = Int8Product(weights[f"{name}.int8"], weights[f"{name}.scales"])
        else:
            continue
        parent, _, child = name.rpartition(".")
        result.get_submodule(parent)._modules[child] = FewRowLinear(module, few)
    use_attention(result, _attend, "focusdoc_few_rows", "sdpa")
    return result


def tiled(levels: Array) -> Array:
    """4-bit levels, uint8 [rows, columns], in the layout of torch's kernel: uint8 [rows, columns / 2].

    Within a tile, each byte holds rows i (low bits) and i + 32 (high bits) of a column.
    """
    rows, columns = levels.shape
    tiles = levels.reshape(rows // TILE, 2, TILE // 2, columns)
    both = tiles[:, 0] | tiles[:, 1] << 4
    return np.ascontiguousarray(both.transpose(0, 2, 1)).reshape(rows, columns // 2)


@cache
def _has_kernels() -> bool:
    """Whether the CPU has VNNI, and torch's 4-bit layout is that of the file (AVX-512)."""
    if not getattr(torch.cpu, "_is_vnni_supported", bool)():
        return False  # int8 sums would overflow
    levels = np.random.default_rng(0).integers(0, 16, (TILE, GROUP), dtype=np.uint8)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(torch.from_numpy(levels.astype(np.int32)), 1)
    return torch.equal(packed.flatten(), torch.from_numpy(tiled(levels)).flatten())


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    **others: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention on torch's fused kernel; ten times faster for a single row without a mask."""
    if query.shape[0] != 1 or query.shape[2] != 1 or attention_mask is not None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        many: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **others
        )
        return many
    # Fold the query heads of a KV head into rows: otherwise the kernel reads its keys once per head.
    rows = query.view(1, key.shape[1], -1, query.shape[-1])
    output = functional.scaled_dot_product_attention(rows, key, value, scale=scaling)
    return output.reshape(1, 1, query.shape[1], -1), None
