"""The trainable weights of a run, full or low-rank (LoRA: products added to frozen matrices), and their checkpoints.

The weights are float32 whatever the base model's dtype, and are saved as full matrices in the adapter. A checkpoint has
all that the next step depends on, and is written atomically.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from focusdoc.errors import TrainingError
from focusdoc.modeling.adapter import Adapter
from focusdoc.modeling.candidate import LayerWeights
from focusdoc.storage import atomic_folder

_FILE = "state.safetensors"


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


def save_checkpoint(
    folder: Path, weights: nn.ParameterDict, optimizer: torch.optim.AdamW, step: int, identity: Mapping[str, Any]
) -> None:
    """Write the float32 weights, AdamW's moments, the step, and the settings that define the run (`identity`).

    Raises:
        TrainingError: it cannot be written (a full disk); the previous checkpoint, kept until then, is intact.
    """
    tensors: dict[str, Tensor] = {}
    for name, weight in weights.items():
        tensors[f"weight.{name}"] = weight.detach().contiguous()
        state = optimizer.state.get(weight, {})
        tensors |= {f"{key}.{name}": value.contiguous() for key, value in state.items() if value.dim()}
    try:
        with atomic_folder(folder) as temporary:
            metadata = {"step": str(step), "identity": json.dumps(identity, sort_keys=True)}
            save_file(tensors, temporary / _FILE, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"The checkpoint {folder} cannot be written ({error}); the one before it is kept."
        ) from error


def has_checkpoint(folder: Path) -> bool:
    """Whether `folder` holds a checkpoint."""
    return (folder / _FILE).exists()


def load_checkpoint(
    folder: Path, weights: nn.ParameterDict, optimizer: torch.optim.AdamW, identity: Mapping[str, Any]
) -> int:
    """Load a checkpoint into `weights` and `optimizer`; return its step.

    Raises:
        TrainingError: it is damaged, or its run differs from `identity`; the message names the differences.
    """
    try:
        with safe_open(folder / _FILE, "pt") as stored:
            metadata = stored.metadata() or {}
            before = json.loads(metadata["identity"])
            now = json.loads(json.dumps(identity))  # tuples become lists, as in the stored metadata
            changes = ", ".join(
                f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
                for key in sorted({*before, *now})
                if before.get(key) != now.get(key)
            )
            if changes:
                raise TrainingError(f"{folder} belongs to another run ({changes}); choose another output folder.")
            step = int(metadata["step"])
            names = set(stored.keys())
            for name, weight in weights.items():
                weight.data.copy_(stored.get_tensor(f"weight.{name}"))
                if f"exp_avg.{name}" in names:
                    moments = {
                        key: stored.get_tensor(f"{key}.{name}").to(weight.device) for key in ("exp_avg", "exp_avg_sq")
                    }
                    optimizer.state[weight] = {"step": torch.tensor(float(step)), **moments}
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise TrainingError(f"The checkpoint {folder} is damaged ({error}); choose another output folder.") from error
    return step
