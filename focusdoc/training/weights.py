"""The trainable weights of a run: full matrices, or low-rank products added to frozen ones (LoRA).

Both are float32 whatever the base model's dtype, and are saved as full matrices in the adapter.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod

import torch
from torch import Tensor, nn

from focusdoc.modeling.adapter import Adapter
from focusdoc.modeling.candidate import LayerWeights


class CandidateWeights(nn.Module):
    """The candidate projections of all layers.

    Attributes:
        weights: the trained parameters by name, as in the optimizer and the checkpoints.
    """

    weights: nn.ParameterDict

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.num_layers = adapter.config.num_layers
        self.letters = list(adapter.config.projections)

    @abstractmethod
    def matrix(self, name: str) -> Tensor:
        """The float32 candidate projection ``{layer}_{letter}``, [out_features, in_features]."""

    @property
    def identity(self) -> dict[str, str]:
        """Hashes of weights that are not in the checkpoint and that a resumed run must share."""
        return {}

    def layers(self, device: torch.device, dtype: torch.dtype) -> list[LayerWeights]:
        """The projections of every layer, converted for the base model; gradients reach the float32 weights."""
        return [
            {letter: self.matrix(f"{layer}_{letter}").to(device, dtype) for letter in self.letters}
            for layer in range(self.num_layers)
        ]

    @torch.no_grad()
    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Detached copies by their names in the adapter."""
        return {
            f"layers.{layer}.{letter}.weight": self.matrix(f"{layer}_{letter}").to("cpu", dtype, copy=True).contiguous()
            for layer in range(self.num_layers)
            for letter in self.letters
        }


class FullWeights(CandidateWeights):
    """Full matrices, initialized from `adapter`."""

    def __init__(self, adapter: Adapter, device: torch.device) -> None:
        super().__init__(adapter)
        self.weights = nn.ParameterDict(
            {name: nn.Parameter(matrix) for name, matrix in _matrices(adapter, device).items()}
        )

    def matrix(self, name: str) -> Tensor:
        """See `CandidateWeights`."""
        matrix: Tensor = self.weights[name]
        return matrix


class LowRankWeights(CandidateWeights):
    """Frozen W plus B A, with A [rank, in_features] initialized randomly and B [out_features, rank] to zeros.

    Only A and B are trained; W comes from `adapter` and is not in the checkpoint.
    """

    def __init__(self, adapter: Adapter, device: torch.device, rank: int, seed: int) -> None:
        super().__init__(adapter)
        self.frozen = _matrices(adapter, device)
        generator = torch.Generator().manual_seed(seed)
        self.weights = nn.ParameterDict()
        for name, matrix in self.frozen.items():
            out_features, in_features = matrix.shape
            down = torch.randn(rank, in_features, generator=generator) / in_features**0.5
            self.weights[f"{name}_a"] = nn.Parameter(down.to(device))
            self.weights[f"{name}_b"] = nn.Parameter(torch.zeros(out_features, rank, device=device))

    def matrix(self, name: str) -> Tensor:
        """See `CandidateWeights`."""
        added: Tensor = self.weights[f"{name}_b"] @ self.weights[f"{name}_a"]
        return self.frozen[name] + added

    @property
    def identity(self) -> dict[str, str]:
        """The SHA-256 of the frozen matrices."""
        digest = hashlib.sha256()
        for name in sorted(self.frozen):
            digest.update(self.frozen[name].cpu().numpy().tobytes())
        return {"start_from": digest.hexdigest()}


def _matrices(adapter: Adapter, device: torch.device) -> dict[str, Tensor]:
    """Float32 copies of an adapter's weights by the name ``{layer}_{letter}``."""
    return {
        f"{layer}_{letter}": weight.to(device, torch.float32, copy=True)
        for layer in range(adapter.config.num_layers)
        for letter, weight in adapter.of_layer(layer).items()
    }
