"""The low-bit weights for decoding, made from the quantized blocks of a GGUF file.

4-bit blocks are kept: every 32 numbers of a row are levels with a scale and an offset, rounded to bfloat16 like the
converted weights. All other blocks (5, 6 or 8 bits) become int8 with a scale per row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind

from focusdoc.modeling.few_rows import GROUP, TILE, Array, tiled

#: Dtype (safetensors name) and shape of a tensor in the file.
Part = tuple[str, list[int]]

_Q4_K_BYTES = 144
_Q4_1_BYTES = 20


def parts_of(name: str, tensor: Any) -> dict[str, Part]:
    """The tensors for the linear layer `name`, whose `tensor` is of the GGUF file, in the order of `contents_of`."""
    columns, rows = (int(size) for size in tensor.shape)
    if _keeps_4_bits(tensor):
        return {
            f"{name}.int4": ("U8", [rows, columns // 2]),
            f"{name}.scales_and_zeros": ("BF16", [columns // GROUP, rows, 2]),
        }
    return {f"{name}.int8": ("I8", [rows, columns]), f"{name}.scales": ("F32", [rows])}


def contents_of(tensor: Any, order: Array, step: int) -> Iterator[Array]:
    """The bytes of `parts_of`, in pieces made from `step` numbers.

    Args:
        order: the file's row for each row of the model.
    """
    data = tensor.data if np.array_equal(order, np.arange(len(order))) else tensor.data[order]
    height = max(1, step // int(tensor.shape[0]))
    if _keeps_4_bits(tensor):
        height = max(1, height // TILE) * TILE
    pieces = (data[begin : begin + height] for begin in range(0, len(data), height))
    if _keeps_4_bits(tensor):
        affine = []
        for piece in pieces:
            levels, scales, offsets = _AFFINE[tensor.tensor_type](piece)
            affine.append(np.stack([scales.T, offsets.T + 8 * scales.T], axis=-1))
            yield tiled(levels)
        whole = torch.from_numpy(np.concatenate(affine, axis=1)).to(torch.bfloat16)
        yield whole.view(torch.uint8).numpy()
        return
    steps = []
    for piece in pieces:
        weights = gguf.dequantize(piece, tensor.tensor_type)
        largest = np.abs(weights).max(axis=1, keepdims=True)
        steps.append(np.maximum(largest, np.finfo(np.float32).tiny * 127) / 127)  # no division by 0 for zero rows
        yield np.rint(weights / steps[-1]).astype(np.int8)
    yield np.concatenate(steps)[:, 0].astype(np.float32)


def _keeps_4_bits(tensor: Any) -> bool:
    """Whether the blocks have 4 bits and fit the kernel's tiles."""
    columns, rows = tensor.shape
    return tensor.tensor_type in _AFFINE and rows % TILE == 0 and columns % GROUP == 0


def _q4_k(data: Array) -> tuple[Array, Array, Array]:
    blocks = data.reshape(len(data), -1, _Q4_K_BYTES)
    scale, least = (_float16(blocks[..., at : at + 2]) for at in (0, 2))
    scales, offsets = gguf.quants.Q4_K.get_scale_min(blocks[..., 4:16].reshape(-1, 12))
    shape = (*blocks.shape[:2], -1)
    pairs = blocks[..., 16:].reshape(*blocks.shape[:2], 4, GROUP)
    levels = np.stack([pairs & 15, pairs >> 4], axis=3)
    return (
        levels.reshape(len(data), -1),
        (scale * scales.reshape(shape)).reshape(len(data), -1),
        (least * -offsets.reshape(shape).astype(np.float32)).reshape(len(data), -1),
    )


def _q4_1(data: Array) -> tuple[Array, Array, Array]:
    blocks = data.reshape(len(data), -1, _Q4_1_BYTES)
    scale, least = (_float16(blocks[..., at : at + 2])[..., 0] for at in (0, 2))
    pairs = blocks[..., 4:]
    levels = np.stack([pairs & 15, pairs >> 4], axis=2)
    return levels.reshape(len(data), -1), scale, least


def _float16(data: Array) -> Array:
    return np.ascontiguousarray(data).view(np.float16).astype(np.float32)


#: Unpacking of each 4-bit kind into levels [rows, columns], scales and offsets [rows, groups]; a weight is ``level *
#: scale + offset``.
_AFFINE: Mapping[Kind, Callable[[Array], tuple[Array, Array, Array]]] = {Kind.Q4_K: _q4_k, Kind.Q4_1: _q4_1}
