"""Moving a rotated key to another position (RoPE, half-split convention)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

#: cos and sin, each float32 [num_positions, head_dim].
Rotation = tuple[Tensor, Tensor]
#: One for every layer type.
Rotations = Mapping[str | None, Rotation]


class Rotary:
    """Key rotations of one base model, per layer, by the decoder's rotary embedding `module`.

    Args:
        layer_types: the type of every layer; types may have RoPE parameters of their own (Gemma 3).
    """

    def __init__(self, module: nn.Module, layer_types: Sequence[str] | None, num_layers: int) -> None:
        self._module = module
        per_type = layer_types is not None and any(hasattr(module, f"{name}_inv_freq") for name in set(layer_types))
        self._types: tuple[str | None, ...] = tuple(layer_types) if per_type and layer_types else (None,) * num_layers

    def rotations(self, distances: Tensor) -> Rotations:
        """Rotations by `distances` (new minus old position; int [n]) for every layer type."""
        return {name: self._tables(distances, name) for name in set(self._types)}

    def of_layer(self, rotations: Rotations, layer: int) -> Rotation:
        """The rotation in `rotations` for `layer`."""
        return rotations[self._types[layer]]

    def _tables(self, distances: Tensor, layer_type: str | None) -> Rotation:
        # The module casts its tables to the dtype of its first argument; we need float32.
        like = torch.empty(0, device=distances.device, dtype=torch.float32)
        if layer_type is None:
            cos, sin = self._module(like, distances[None])
            scale = getattr(self._module, "attention_scaling", 1.0)
        else:
            cos, sin = self._module(like, distances[None], layer_type)
            scale = getattr(self._module, f"{layer_type}_attention_scaling", 1.0)
        # Scaled RoPE (yarn) folds a factor into cos and sin; a stored key already includes it.
        return cos[0] / scale, sin[0] / scale


def rotate(keys: Tensor, rotation: Rotation) -> Tensor:
    """Keys [..., n, head_dim] rotated by `rotation` [n, head_dim], computed in float32.

    Rotations add up, so a key at position p rotated by (q - p) is the key at position q.
    """
    cos, sin = rotation
    wide = keys.float()
    half = wide.shape[-1] // 2
    rotated_half = torch.cat((-wide[..., half:], wide[..., :half]), dim=-1)
    return (wide * cos + rotated_half * sin).to(keys.dtype)
