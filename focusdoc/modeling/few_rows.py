"""A model that decodes from weights of few bits and reads from its own.

A decoding step has one row, so its linear layers cost what it costs to stream their weights: a fourth where they are
of 4 bits. Many rows cost what it costs to multiply, which bfloat16 does several times as fast. So a twin of the model
has both, and each linear layer takes those that suit the rows it gets.
"""

from __future__ import annotations

from collections.abc import Mapping
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
#: Columns of a weight of 4 bits that share a scale and a zero.
GROUP = 32
#: Rows whose levels stand together: torch's kernel takes them at a time where the processor has AVX-512.
TILE = 64
#: Rows up to which the weights of few bits are faster.
FEW_ROWS = 8
#: A row of inputs is taken as two of 8 bits, the second of what the first leaves in parts of its step.
_PARTS = 254


class Int4Product(nn.Module):
    """Inputs times weights of 4 bits.

    Args:
        packed, scales_and_zeros: of the linear layer, from the file of `focusdoc.modeling.few_row_weights`.
    """

    def __init__(self, packed: Tensor, scales_and_zeros: Tensor) -> None:
        super().__init__()
        self._weights = packed, GROUP, scales_and_zeros

    def forward(self, rows: Tensor) -> Tensor:
        """Map bfloat16 [rows, in_features] to [rows, out_features]."""
        output: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, *self._weights)
        return output


class Int8Product(nn.Module):
    """Inputs times weights of 8 bits; inputs are rounded to 16 bits of their row's largest.

    Args:
        weight: int8 [out_features, in_features]. scales: float32 [out_features].
    """

    def __init__(self, weight: Tensor, scales: Tensor) -> None:
        super().__init__()
        packed = torch.ops.onednn.qlinear_prepack(weight, [2, weight.shape[1]])
        # Inputs are bytes with 128 for zero, and come out as float32.
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
    """A linear layer with its own weights for many rows and others for few.

    Args:
        few: the product of inputs and weights, without the bias.
    """

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
    """A twin of `model` with the weights of `file` for few rows, and faster attention for one; else as the model.

    `model` itself is left as it is, and returned where this processor or its dtype has nothing to gain.

    Args:
        model: of transformers, whose linear layers are those that `file` was made for.
        file: see `focusdoc.modeling.few_row_weights`. Its bytes are mapped, not read; those of 8 bits are laid out
            anew.
    """
    weight = next(model.parameters())
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16 or not _has_kernels():
        return model
    made = twin(model)
    weights = load_file(file)
    for name, module in list(made.named_modules()):
        if (few := _product(weights, name)) is not None:
            parent, _, child = name.rpartition(".")
            made.get_submodule(parent)._modules[child] = FewRowLinear(module, few)
    use_attention(made, _attend, "focusdoc_few_rows", "sdpa")
    return made


def _product(weights: Mapping[str, Tensor], name: str) -> nn.Module | None:
    if (packed := weights.get(f"{name}.int4")) is not None:
        return Int4Product(packed, weights[f"{name}.scales_and_zeros"])
    if (weight := weights.get(f"{name}.int8")) is not None:
        return Int8Product(weight, weights[f"{name}.scales"])
    return None


def tiled(levels: Array) -> Array:
    """Levels of 4 bits, uint8 [rows, columns], as torch's kernel reads them: uint8 [rows, columns / 2].

    Of a tile of rows a byte a column holds rows i (low) and i + 32 (high).
    """
    rows, columns = levels.shape
    tiles = levels.reshape(rows // TILE, 2, TILE // 2, columns)
    both = tiles[:, 0] | tiles[:, 1] << 4
    return np.ascontiguousarray(both.transpose(0, 2, 1)).reshape(rows, columns // 2)


@cache
def _has_kernels() -> bool:
    """Whether the processor multiplies bytes, and torch lays out 4 bits on it as the file does (AVX-512)."""
    if not getattr(torch.cpu, "_is_vnni_supported", bool)():
        return False  # without it sums of bytes overflow
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
    """Transformers' attention by torch's fused kernel; for one row that sees all, a tenth of its time."""
    if query.shape[0] != 1 or query.shape[2] != 1 or attention_mask is not None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        many: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **others
        )
        return many
    # The query heads of one KV head as rows that attend together: the kernel would read its keys once for each.
    rows = query.view(1, key.shape[1], -1, query.shape[-1])
    output = functional.scaled_dot_product_attention(rows, key, value, scale=scaling)
    return output.reshape(1, 1, query.shape[1], -1), None
