"""The trainable weights of a run: full matrices, or low-rank products added to frozen ones (LoRA).

Both are float32 whatever the base model's dtype, and are saved as full matrices in the adapter.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from focusdoc.modeling.adapter import Adapter
from focusdoc.modeling.candidate import LayerWeights


class CandidateWeights(nn.Module):
    """The candidate projections of all layers, starting from `adapter`; `weights` are the trained parameters by name.

    With a `rank` they are W plus B A. Only A [rank, in_features], initialized randomly, and B [out_features, rank],
    initialized to zeros, are trained; W comes from `adapter` and is not in the checkpoint.
    """

    def __init__(self, adapter: Adapter, device: torch.device, rank: int | None = None, seed: int = 0) -> None:
        super().__init__()
        self.num_layers = adapter.config.num_layers
        self.letters = list(adapter.config.projections)
        initial = {
            f"{layer}_{letter}": weight.to(device, torch.float32, copy=True)
            for layer in range(self.num_layers)
            for letter, weight in adapter.of_layer(layer).items()
        }
        self._frozen = {} if rank is None else initial
        self.weights = nn.ParameterDict(initial if rank is None else None)
        if rank is not None:
            generator = torch.Generator().manual_seed(seed)
            for name, matrix in initial.items():
                out_features, in_features = matrix.shape
                down = torch.randn(rank, in_features, generator=generator) / in_features**0.5
                self.weights[f"{name}_a"] = nn.Parameter(down.to(device))
                self.weights[f"{name}_b"] = nn.Parameter(torch.zeros(out_features, rank, device=device))

    def _matrix(self, layer: int, letter: str) -> Tensor:
        """A float32 candidate projection, [out_features, in_features]."""
        name = f"{layer}_{letter}"
        if not self._frozen:
            matrix: Tensor = self.weights[name]
            return matrix
        added: Tensor = self.weights[f"{name}_b"] @ self.weights[f"{name}_a"]
        return self._frozen[name] + added

    @property
    def identity(self) -> dict[str, str]:
        """The SHA-256 of the frozen matrices, which are not in the checkpoint and which a resumed run must share."""
        digest = hashlib.sha256()
        for name in sorted(self._frozen):
            digest.update(self._frozen[name].cpu().numpy().tobytes())
        return {"start_from": digest.hexdigest()} if self._frozen else {}

    def layers(self, device: torch.device, dtype: torch.dtype) -> list[LayerWeights]:
        """The projections of every layer, converted for the base model; gradients reach the float32 weights."""
        return [
            {letter: self._matrix(layer, letter).to(device, dtype) for letter in self.letters}
            for layer in range(self.num_layers)
        ]

    @torch.no_grad()
    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Detached copies by their names in the adapter."""
        return {
            f"layers.{layer}.{letter}.weight": self._matrix(layer, letter).to("cpu", dtype, copy=True).contiguous()
            for layer in range(self.num_layers)
            for letter in self.letters
        }
