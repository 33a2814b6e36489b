"""LoRA: small trained matrices beside a model's linear layers (arXiv 2106.09685), stored in PEFT's file format.

The layers' own weights are not changed, so a model and its twin with LoRA share them, low-bit ones too.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from focusdoc.errors import AdapterError
from focusdoc.modeling.few_rows import FewRowLinear
from focusdoc.modeling.twin import Module, twin
from focusdoc.storage import atomic_folder

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
#: Prefix and suffixes of PEFT's tensor names.
_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
#: Options of PEFT that change what the matrices mean.
_UNSUPPORTED = ("use_dora", "use_rslora", "modules_to_save", "rank_pattern", "alpha_pattern", "layer_replication")


class LoraLinear(nn.Module):
    """A linear layer plus the product of two small matrices: ``own(x) + scale * B A x``.

    Args:
        a: [rank, in_features]. b: [out_features, rank].
    """

    def __init__(self, own: nn.Module, a: Tensor, b: Tensor, scale: float) -> None:
        super().__init__()
        self.own, self.scale = own, scale
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map hidden [..., in_features] to [..., out_features]."""
        inner = functional.linear(hidden, self.a.to(hidden.dtype)) * self.scale
        output: Tensor = self.own(hidden) + functional.linear(inner, self.b.to(hidden.dtype))
        return output


@dataclass(frozen=True)
class Lora:
    """LoRA weights of the model named `base_model`.

    Attributes:
        scale: factor of B A (PEFT's ``lora_alpha / r``).
        weights: for each linear layer, by name: A [rank, in_features] and B [out_features, rank].
    """

    base_model: str
    scale: float
    weights: Mapping[str, tuple[Tensor, Tensor]]

    @property
    def rank(self) -> int:
        """The inner dimension of B A."""
        return next(iter(self.weights.values()))[0].shape[0]

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the weights."""
        digest = hashlib.sha256(str(self.scale).encode())
        for name in sorted(self.weights):
            digest.update(name.encode())
            for each in self.weights[name]:
                digest.update(each.detach().float().contiguous().numpy(force=True).tobytes())
        return digest.hexdigest()[:16]


def new_lora(base_model: str, model: nn.Module, names: frozenset[str], rank: int, scale: float) -> Lora:
    """LoRA weights for the layers whose names end in `names`, to train: random A and zero B, which changes nothing."""
    weights = {}
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in names and isinstance(module, nn.Linear):
            a = torch.empty(rank, module.in_features)
            nn.init.kaiming_uniform_(a, a=math.sqrt(5))
            weights[name] = a, torch.zeros(module.out_features, rank)
    return Lora(base_model, scale, weights)


def lora_twin(model: Module, lora: Lora) -> Module:
    """A twin of `model` with LoRA beside its linear layers; all other weights are shared.

    Raises:
        AdapterError: the model lacks a layer, or its shape differs.
    """
    result = twin(model)
    layers = dict(result.named_modules())
    for name, (a, b) in lora.weights.items():
        layer = layers.get(name)
        own = layer.own if isinstance(layer, FewRowLinear) else layer
        weight = own.weight if isinstance(own, nn.Linear) else None
        if layer is None or weight is None or weight.shape != (b.shape[0], a.shape[1]):
            shape = None if weight is None else list(weight.shape)
            raise AdapterError(
                f"The LoRA weights for {name}, {[b.shape[0], a.shape[1]]}, do not fit this model's {shape}; they were "
                f"trained for {lora.base_model}."
            )
        parent, _, child = name.rpartition(".")
        device = weight.device
        result.get_submodule(parent)._modules[child] = LoraLinear(layer, a.to(device), b.to(device), lora.scale)
    return result


def save_lora(lora: Lora, folder: Path) -> None:
    """Write a folder in PEFT's format, in bfloat16, atomically; `load_lora` reads it."""
    from safetensors.torch import save_file

    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": lora.base_model,
        "r": lora.rank,
        "lora_alpha": lora.scale * lora.rank,
        "target_modules": sorted({name.rpartition(".")[2] for name in lora.weights}),
        "bias": "none",
        "inference_mode": True,
    }
    tensors = {}
    for name, (a, b) in lora.weights.items():
        tensors[f"{_PREFIX}{name}{_A}"] = a.detach().to("cpu", torch.bfloat16).contiguous()
        tensors[f"{_PREFIX}{name}{_B}"] = b.detach().to("cpu", torch.bfloat16).contiguous()
    with atomic_folder(folder) as fresh:
        save_file(tensors, fresh / WEIGHTS_FILE, metadata={"format": "pt"})
        (fresh / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (fresh / WEIGHTS_FILE).chmod((fresh / CONFIG_FILE).stat().st_mode)


def load_lora(folder: Path) -> Lora:
    """Read LoRA weights in PEFT's format.

    Raises:
        AdapterError: files are missing or damaged, or hold something other than plain LoRA.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS_FILE)
        kind, base_model, rank = config["peft_type"], config["base_model_name_or_path"], int(config["r"])
        scale = float(config["lora_alpha"]) / rank
    except (OSError, ArithmeticError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise AdapterError(f"{folder} holds no complete LoRA weights in PEFT's format: {error!r}.") from error
    if unsupported := [key for key in _UNSUPPORTED if config.get(key)]:
        raise AdapterError(f"{folder} has {', '.join(unsupported)}; focusdoc loads plain LoRA weights only.")
    if kind != "LORA" or config.get("bias", "none") != "none" or not isinstance(base_model, str):
        raise AdapterError(
            f"{folder} is {kind} of {base_model}; focusdoc loads plain LoRA weights only, without biases."
        )
    weights = {}
    for key in [key for key in tensors if key.startswith(_PREFIX) and key.endswith(_A)]:
        a, b = tensors.pop(key), tensors.pop(key.removesuffix(_A) + _B, None)
        if b is None or a.ndim != 2 or b.ndim != 2 or not a.shape[0] == rank == b.shape[1]:
            raise AdapterError(f"{folder} lacks the matrix that belongs to {key}, or its rank is not {rank}.")
        if not (a.is_floating_point() and b.is_floating_point() and a.isfinite().all() and b.isfinite().all()):
            raise AdapterError(f"{folder} has values in {key} or its other half that are no finite numbers.")
        weights[key.removeprefix(_PREFIX).removesuffix(_A)] = a, b
    if tensors or not weights or not math.isfinite(scale):
        raise AdapterError(
            f"{folder} has the scale {scale} and tensors that are no LoRA weights: {sorted(tensors)[:3]}."
        )
    return Lora(base_model, scale, weights)
