"""Chunk memory of 8 bits a number: keys by channel, as steps from a middle, and values with a scale for every token.

Some channels of keys are large in all tokens of a chunk, and in some models (Qwen2.5) always near one number, which a
bias gives them. So each channel of a chunk has a middle of its own, and its steps only cover what differs from that;
values have no such channels, and a scale per token lets one large token cost the others nothing. Integers up to 127 are
exact in bfloat16: what is lost is lost in `put` (half a step: for keys 1/508 of a channel's range, for values 1/254 of
the largest number), and hardly anything when it is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from focusdoc.attention import AttentionKernel
from focusdoc.config import BlockDtype
from focusdoc.memory.chunk_memory import BlockShape, MemoryBlock

#: Numbers of keys, and as many of values, that are made wide at once: small enough to stay in a processor's cache.
SCRATCH = 1 << 21
_LARGEST = 127
#: The scale of what is all zero, or nearly; a smaller divisor could overflow.
_SMALLEST_SCALE = 1e-30


@dataclass(frozen=True, eq=False, slots=True)
class Int8Block(MemoryBlock):
    """KV of consecutive chunks as int8; a number is its integer times its scale, and for keys its middle besides.

    Attributes:
        keys, values: int8 [num_layers, num_chunks, num_kv_heads, chunk_len, head_dim].
        key_middles: float32 [num_layers, num_chunks, num_kv_heads, 1, head_dim], halfway between a channel's extremes.
        key_scales: float32 [num_layers, num_chunks, num_kv_heads, 1, head_dim], one for each channel of a chunk.
        value_scales: float32 [num_layers, num_chunks, num_kv_heads, chunk_len, 1], one for each token.
    """

    key_middles: Tensor
    key_scales: Tensor
    value_scales: Tensor
    ready: ClassVar[bool] = False

    @classmethod
    def parts(cls, shape: BlockShape, dtype: torch.dtype) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """See `MemoryBlock.parts`; what the model computes in makes no difference here."""
        return {
            "keys": (shape, torch.int8),
            "values": (shape, torch.int8),
            "key_middles": ((*shape[:3], 1, shape[4]), torch.float32),
            "key_scales": ((*shape[:3], 1, shape[4]), torch.float32),
            "value_scales": ((*shape[:4], 1), torch.float32),
        }

    def put(self, layer: int, first: int, keys: Tensor, values: Tensor) -> None:
        """See `MemoryBlock.put`; each number is rounded to the nearest step of its scale."""
        at = slice(first, first + len(keys))
        smallest, largest = keys.float().aminmax(dim=2, keepdim=True)
        middles = self.key_middles[layer, at].copy_((smallest + largest) / 2)
        _quantize(keys.float() - middles.to(keys.device), 2, self.keys[layer, at], self.key_scales[layer, at])
        _quantize(values, 3, self.values[layer, at], self.value_scales[layer, at])

    def layer(self, layer: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """See `MemoryBlock.layer`; a copy."""
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
        """See `MemoryBlock.attend`: a few chunks at a time are made wide, in a scratch that serves them all.

        The keys' scales are multiplied into the query, which has far fewer rows. What the middles add to the scores of
        a row is the same for all tokens of the chunk, so it is added to the log-sum-exp alone, in float32.
        """
        num_chunks, num_kv_heads, chunk_len, head_dim = self.keys.shape[1:]
        # [num_chunks, num_heads, rows, head_dim] -> [num_chunks, num_kv_heads, heads per KV head * rows, head_dim]
        rows = query.reshape(num_chunks, num_kv_heads, -1, head_dim).float()
        asked = (rows * self.key_scales[layer]).to(query.dtype).reshape(query.shape)
        of_middles = (rows @ self.key_middles[layer].mT).view(query.shape[:-1]) * scaling
        step = min(num_chunks, max(1, SCRATCH // (num_kv_heads * chunk_len * head_dim)))
        room = query.new_empty((2, step, num_kv_heads, chunk_len, head_dim))
        found: list[tuple[Tensor, Tensor]] = []
        for first in range(0, num_chunks, step):
            at = slice(first, first + step)
            keys, values = room[:, : min(step, num_chunks - first)]
            keys.copy_(self.keys[layer, at])
            values.copy_(self.values[layer, at]).mul_(self.value_scales[layer, at].to(query.dtype))
            found.append(kernel(asked[at], keys, values, scaling=scaling, query_start=query_start, window=window))
        outputs, lses = zip(*found, strict=True)
        return torch.cat(outputs), torch.cat(lses) + of_middles


#: The kinds of blocks by their names in settings.
BLOCKS: dict[BlockDtype, type[MemoryBlock]] = {"model": MemoryBlock, "int8": Int8Block}


def _quantize(states: Tensor, axis: int, integers: Tensor, scales: Tensor) -> None:
    """Write `states` as integers and as scales, which numbers along `axis` share."""
    wide = states.float()
    steps = wide.abs().amax(dim=axis, keepdim=True).div_(_LARGEST).clamp_min_(_SMALLEST_SCALE)
    scales.copy_(steps)  # which may be on another device
    integers.copy_(wide.div(steps).round_())
