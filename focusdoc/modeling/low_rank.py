"""Low-rank weights (LoRA, arXiv 2106.09685): adapters of A and B of W_candidate = W_base + B A; `FindingWeights`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from focusdoc.errors import AdapterError
from focusdoc.modeling.adapter import Adapter, check_adapter
from focusdoc.modeling.families import projection_modules, projection_shapes, projection_weight
from focusdoc.modeling.finding_weights import FINDING_FILE


def low_rank(adapter: Adapter, model: nn.Module, rank: int) -> Adapter:
    """The best approximation of a full adapter by matrices of a rank (truncated SVD of its difference to the base).

    It is exact up to rounding for a run with ``--rank``.

    Raises:
        AdapterError: the adapter has a rank already, does not fit the model, or `rank` is out of range.
    """
    if adapter.config.rank is not None:
        raise AdapterError(f"The adapter has rank {adapter.config.rank} already; convert the full one.")
    check_adapter(adapter, model)
    most = min(min(weight.shape) for weight in adapter.weights.values())
    if not 1 <= rank <= most:
        raise AdapterError(f"The rank is {rank}; it must be 1 to {most}, the width of the smallest projection.")
    weights: dict[str, Tensor] = {}
    for name, base_weight in _base_weights(adapter, model):
        weight = adapter.weights[f"{name}.weight"]
        left, values, right = torch.linalg.svd(weight.float() - base_weight, full_matrices=False)
        root = values[:rank].sqrt()
        weights[f"{name}.a"] = (root[:, None] * right[:rank]).to(weight.dtype)
        weights[f"{name}.b"] = (left[:, :rank] * root).to(weight.dtype)
    return replace(adapter, config=adapter.config.model_copy(update={"rank": rank}), weights=weights)


def merged(adapter: Adapter, model: nn.Module, *, model_fingerprint: str | None = None) -> Adapter:
    """The adapter with full matrices, or itself if it has them. Raises as `check_adapter` and `check_finding`."""
    check_adapter(adapter, model, model_fingerprint=model_fingerprint)
    if adapter.config.rank is None:
        check_finding(adapter)
        return adapter
    weights = {}
    for name, base_weight in _base_weights(adapter, model):
        a, b = adapter.weights[f"{name}.a"], adapter.weights[f"{name}.b"]
        weights[f"{name}.weight"] = (base_weight + b.float() @ a.float()).to(a.dtype)
    full = replace(adapter, config=adapter.config.model_copy(update={"rank": None}), weights=weights)
    check_finding(full)
    return full


def adapter_that_finds(adapter: Adapter) -> Adapter:
    """A full adapter whose candidates find passages: `adapter` with its `FindingWeights` added; itself without any."""
    finding = adapter.finding
    if finding is None:
        return adapter
    check_finding(adapter)
    if adapter.only_finds:
        return replace(adapter, finding=None)
    weights = {}
    for name, weight in adapter.weights.items():
        a, b = (finding.added[f"{name.removesuffix('.weight')}.{part}"].float() for part in "ab")
        weights[name] = (weight.float() + b @ a).to(weight.dtype)
    return replace(adapter, weights=weights, finding=None)


def check_finding(adapter: Adapter) -> None:
    """Check that a full adapter's `FindingWeights`, if it has any, are of this adapter.

    Raises:
        AdapterError: they are of another one.
    """
    finding = adapter.finding
    if finding is None:
        return
    num_layers, num_kv_heads, head_dim = finding.relevance.shape
    rows = {"q": finding.heads.shape[1] * head_dim, "k": num_kv_heads * head_dim, "v": num_kv_heads * head_dim}
    fits = num_layers == finding.heads.shape[0] == adapter.config.num_layers
    fits &= len(finding.added) in (0, 2 * len(adapter.weights))
    for name, weight in adapter.weights.items():
        stem = name.removesuffix(".weight")
        fits &= weight.shape[0] == rows.get(stem[-1], weight.shape[0])
        if finding.added:
            a, b = (finding.added.get(f"{stem}.{part}", torch.empty(0, 0)) for part in "ab")
            fits &= (b.shape[0], a.shape[1]) == weight.shape and a.shape[0] == b.shape[1]
    if not fits:
        raise AdapterError(
            f"{FINDING_FILE} is not of the adapter beside it, which was made for {adapter.config.base_model}; copy the "
            "whole folder again, or remove that file."
        )


def _base_weights(adapter: Adapter, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The name of each base projection that the adapter has, and a float32 copy of its weight on the CPU."""
    shapes = projection_shapes(model)
    for name, module in projection_modules(model).items():
        if name[-1] in adapter.config.projections:
            yield name, projection_weight(module, shapes[name][1], torch.float32).to("cpu", torch.float32)
