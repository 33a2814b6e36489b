"""Checkpoints of a training run: the state that the next step depends on, written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from focusdoc.errors import TrainingError
from focusdoc.storage import atomic_folder

_FILE = "state.safetensors"


def save_checkpoint(
    folder: Path, weights: nn.ParameterDict, optimizer: torch.optim.AdamW, step: int, identity: Mapping[str, Any]
) -> None:
    """Write the float32 weights, AdamW's moments, the step, and the settings that define the run (`identity`).

    The previous checkpoint stays until this is complete.

    Raises:
        TrainingError: it cannot be written (a full disk); the previous checkpoint is intact.
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
