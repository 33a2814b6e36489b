"""Chunk memory in int8: keys quantized per channel around its midpoint, values with a scale per token.

Some key channels are large for all tokens of a chunk, and in some models (Qwen2.5) they are always near a value set by
a bias. So each channel of a chunk has its own midpoint and scale. Values have no such channels; with a scale per token,
one large token does not cost the others precision. Integers up to 127 are exact in bfloat16, so nearly all of the error
comes from rounding in `put`: half a step, which is 1/508 of a channel's range for keys and 1/254 of the largest number
for values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from focusdoc.attention import AttentionKernel
from focusdoc.config import BlockDtype
from focusdoc.memory.chunk_memory import BlockShape, MemoryBlock

#: Keys, and as many values, dequantized at once: few enough for the CPU cache.
SCRATCH = 1 << 21
_LARGEST = 127
#: Scale for all-zero or nearly zero data; a smaller divisor could overflow.
_SMALLEST_SCALE = 1e-30


@dataclass(frozen=True, eq=False, slots=True)
class Int8Block(MemoryBlock):
    """KV of consecutive chunks as int8: a value is its integer times its scale, plus the midpoint for keys.

    Attributes:
        keys, values: int8 [num_layers, num_chunks, num_kv_heads, chunk_len, head_dim].
        key_middles: float32 [num_layers, num_chunks, num_kv_heads, 1, head_dim], midpoint of each channel's range.
        key_scales: float32 [num_layers, num_chunks, num_kv_heads, 1, head_dim], one per channel.
        value_scales: float32 [num_layers, num_chunks, num_kv_heads, chunk_len, 1], one per token.
    """

    key_middles: Tensor
    key_scales: Tensor
    value_scales: Tensor
    ready: ClassVar[bool] = False

    @classmethod
    def parts(cls, shape: BlockShape, dtype: torch.dtype) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """See `MemoryBlock.parts`; independent of `dtype`."""
        return {
            "keys": (shape, torch.int8),
            "values": (shape, torch.int8),
            "key_middles": ((*shape[:3], 1, shape[4]), torch.float32),
            "key_scales": ((*shape[:3], 1, shape[4]), torch.float32),
            "value_scales": ((*shape[:4], 1), torch.float32),
        }

    def put(self, layer: int, first: int, keys: Tensor, values: Tensor) -> None:
        """See `MemoryBlock.put`; rounds to the nearest step."""
        at = slice(first, first + len(keys))
        smallest, largest = keys.float().aminmax(dim=2, keepdim=True)
        middles = self.key_middles[layer, at].copy_((smallest + largest) / 2)
        _quantize(keys.float() - middles.to(keys.device), 2, self.keys[layer, at], self.key_scales[layer, at])
        _quantize(values, 3, self.values[layer, at], self.value_scales[layer, at])

    def layer(self, layer: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """See `MemoryBlock.layer`; dequantized."""
        keys = self.keys[layer] * self.key_scales[layer] + self.key_middles[layer]
        return keys.to(dtype), (self.values[layer] * self.value_scales[layer]).to(dtype)

    def attend(
        self,
        layer: int,
        query: Tensor,
        *,
        kernel: AttentionKernel,
        scaling: float,
        query_start: int,
        window: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `MemoryBlock.attend`; converts a few chunks at a time, in a shared scratch buffer.

        The key scales are multiplied into the query, which has far fewer rows. The midpoints add the same to a row's
        scores for all tokens of a chunk, so they are added to the log-sum-exp only, in float32.
        """
        num_chunks, num_kv_heads, chunk_len, head_dim = self.keys.shape[1:]
        # [num_chunks, num_heads, rows, head_dim] -> [num_chunks, num_kv_heads, heads per KV head * rows, head_dim]
        rows = query.reshape(num_chunks, num_kv_heads, -1, head_dim).float()
        scaled_query = (rows * self.key_scales[layer]).to(query.dtype).reshape(query.shape)
        middle_scores = (rows @ self.key_middles[layer].mT).view(query.shape[:-1]) * scaling
        step = min(num_chunks, max(1, SCRATCH // (num_kv_heads * chunk_len * head_dim)))
        scratch = query.new_empty((2, step, num_kv_heads, chunk_len, head_dim))
        found: list[tuple[Tensor, Tensor]] = []
        for first in range(0, num_chunks, step):
            at = slice(first, first + step)
            keys, values = scratch[:, : min(step, num_chunks - first)]
            keys.copy_(self.keys[layer, at])
            values.copy_(self.values[layer, at]).mul_(self.value_scales[layer, at].to(query.dtype))
            found.append(
                kernel(scaled_query[at], keys, values, scaling=scaling, query_start=query_start, window=window)
            )
        outputs, lses = zip(*found, strict=True)
        return torch.cat(outputs), torch.cat(lses) + middle_scores


#: Block classes by their names in the settings.
BLOCKS: dict[BlockDtype, type[MemoryBlock]] = {"model": MemoryBlock, "int8": Int8Block}


def _quantize(states: Tensor, axis: int, integers: Tensor, scales: Tensor) -> None:
    """Quantize `states`, with one scale for all numbers along `axis`."""
    wide = states.float()
    steps = wide.abs().amax(dim=axis, keepdim=True).div_(_LARGEST).clamp_min_(_SMALLEST_SCALE)
    scales.copy_(steps)  # possibly on another device
    integers.copy_(wide.div(steps).round_())
