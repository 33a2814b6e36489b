"""The adapter: the trained candidate projections of one base model (paper, section 3.2).

`focusdoc.modeling.adapter_files` loads and saves it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

from focusdoc.config import CandidatePositions, LocalAttention
from focusdoc.errors import AdapterError
from focusdoc.modeling.families import PROJECTIONS, projection_modules, projection_shapes, projection_weight
from focusdoc.modeling.finding_weights import FindingWeights
from focusdoc.modeling.fingerprint import fingerprint

#: Version of the format that `AdapterConfig` describes.
FORMAT_VERSION: Literal[1] = 1


class AdapterConfig(BaseModel):
    """The metadata of an adapter.

    Attributes:
        format_version: unknown versions are refused.
        base_fingerprint: `fingerprint` of the base model; None if unknown (the authors' checkpoints).
        projections: letters of the trained projections, in the order q, k, v, o; the others fall back to the base's
            (``beacon_param`` in the authors' code).
        rank: of the low-rank matrices that are added to the base's weights; None for full matrices.
        chunk_size, local_attention, candidate_positions: as in training; without a chunk size, the engine chooses.
        training: a free-form record of the training (command, data, curves, held-out results), JSON values only.
        license: SPDX identifier of the weights' license.
        created: UTC time of creation, ISO 8601.
    """

    model_config = ConfigDict(extra="forbid")

    format_version: Literal[1] = FORMAT_VERSION
    base_model: str
    base_fingerprint: str | None = None
    projections: list[Literal["q", "k", "v", "o"]] = Field(min_length=1)
    num_layers: int = Field(ge=1)
    hidden_size: int = Field(ge=1)
    rank: int | None = Field(default=None, ge=1)
    chunk_size: int | None = Field(default=None, ge=1)
    local_attention: LocalAttention = "incremental"
    candidate_positions: CandidatePositions = "sequential"
    training: dict[str, Any] = Field(default_factory=dict)
    license: str | None = None
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @field_validator("projections")
    @classmethod
    def _in_order(cls, letters: list[str]) -> list[str]:
        return [letter for letter in PROJECTIONS if letter in letters]


@dataclass
class Adapter:
    """An adapter in memory.

    Attributes:
        weights: the candidate projections by the name ``layers.{i}.{q|k|v|o}.weight``, each [out_features,
            in_features]. They share the base projections' biases. With a rank, pairs ``...a`` [rank, in_features] and
            ``...b`` [out_features, rank] instead, which `focusdoc.modeling.low_rank.merged` adds to the base's weights.
        finding: what makes its candidates find passages for a reader; None if that was not trained. If it adds nothing
            to `weights`, these were trained to find only, and the base model answers by a look.
    """

    config: AdapterConfig
    weights: dict[str, Tensor]
    finding: FindingWeights | None = None

    @property
    def only_finds(self) -> bool:
        """Whether its candidates were trained to find passages, and not to answer."""
        return self.finding is not None and not self.finding.added

    def digest(self) -> str:
        """The SHA-256 of all weights."""
        digest = hashlib.sha256()
        parts = dict(self.weights)
        if (finding := self.finding) is not None:
            parts |= {f"finding.{name}": each for name, each in finding.added.items()}
            parts |= {"finding.heads": finding.heads, "finding.relevance": finding.relevance}
            digest.update(repr(finding.signals).encode())
        for name, weight in sorted(parts.items()):
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def of_layer(self, layer: int) -> dict[str, Tensor]:
        """The full weights of one layer by letter, ``{"q": [out_features, in_features], ...}``."""
        return {letter: self.weights[f"layers.{layer}.{letter}.weight"] for letter in self.config.projections}


def check_adapter(adapter: Adapter, model: nn.Module, *, model_fingerprint: str | None = None) -> None:
    """Check that `adapter` fits the plain `model`, whose fingerprint may be known already, weight by weight.

    Raises:
        AdapterError: a tensor is missing, unexpected, of a wrong shape or not finite, or the adapter was made for
            another base model; the message says which.
        UnsupportedModelError: the model's architecture is not supported.
    """
    check_names(adapter)
    config = adapter.config
    name = base_model_name(model)
    shapes = projection_shapes(model)
    num_layers = len(shapes) // len(PROJECTIONS)
    if config.num_layers != num_layers:
        raise AdapterError(
            f"The adapter (made for {config.base_model}) has {config.num_layers} layers, but {name} has {num_layers}; "
            "choose an adapter of this model."
        )
    for tensor_name, weight in adapter.weights.items():
        name_in_model, _, part = tensor_name.rpartition(".")
        out_features, in_features = shapes[name_in_model]
        rank = config.rank or 0
        expected = {"a": (rank, in_features), "b": (out_features, rank)}.get(part, (out_features, in_features))
        if tuple(weight.shape) != expected:
            raise AdapterError(
                f"The adapter's tensor {tensor_name} has shape {list(weight.shape)}, but {name} needs "
                f"{list(expected)}; choose an adapter of this model."
            )
        if not weight.is_floating_point():
            raise AdapterError(f"The adapter's tensor {tensor_name} holds {weight.dtype}; it must be floating point.")
        if not bool(torch.isfinite(weight).all()):
            raise AdapterError(f"The adapter's tensor {tensor_name} holds values that are not finite; it is damaged.")
    if config.base_fingerprint is not None:
        found = model_fingerprint or fingerprint(model)
        if found != config.base_fingerprint:
            raise AdapterError(
                f"The adapter was made for {config.base_model} (fingerprint {config.base_fingerprint[:12]}), not for "
                f"{name} (fingerprint {found[:12]}); choose an adapter of this model or train one."
            )


def untrained_adapter(model: nn.Module, projections: str | Iterable[str] = "qkvo") -> Adapter:
    """An adapter with copies of the base's weights, from which training starts. It retrieves nothing.

    Args:
        model: the plain base model; its weights may be quantized (GGUF, 4 bits).
        projections: a subset of the letters ``"qkvo"``.

    Raises:
        AdapterError: `projections` is empty or has an unknown letter.
        UnsupportedModelError: the model's architecture is not supported.
    """
    letters = list(projections)
    if not letters or any(letter not in PROJECTIONS for letter in letters):
        raise AdapterError(f"projections is {projections!r}; choose letters of 'qkvo', at least one.")
    shapes = projection_shapes(model)
    model_config: Any = model.config
    dtype: Any = getattr(model, "dtype", torch.float32)
    weights = {
        f"{name}.weight": projection_weight(module, shapes[name][1], dtype)
        for name, module in projection_modules(model).items()
        if name[-1] in letters
    }
    config = AdapterConfig.model_validate(
        {
            "base_model": base_model_name(model),
            "base_fingerprint": fingerprint(model),
            "projections": letters,
            "num_layers": model_config.num_hidden_layers,
            "hidden_size": model_config.hidden_size,
            "training": {"untrained": True},
        }
    )
    return Adapter(config, weights)


def base_model_name(model: nn.Module) -> str:
    """The model's name for messages and records: its hub name, or the name of its folder."""
    config: Any = model.config
    name = str(getattr(config, "_name_or_path", "") or "")
    if not name:
        return type(model).__name__
    return Path(name).name if Path(name).is_absolute() or Path(name).exists() else name


def check_names(adapter: Adapter) -> None:
    """Raise AdapterError unless the adapter has one weight, or pair, for each of its projections in each layer."""
    config = adapter.config
    if config.num_layers > max(1000, len(adapter.weights)):  # listing the names would take minutes
        raise AdapterError(
            f"The adapter is incomplete: {len(adapter.weights)} tensors for {config.num_layers:,} layers."
        )
    parts = ("weight",) if config.rank is None else ("a", "b")
    names = [f"layers.{i}.{letter}" for i in range(config.num_layers) for letter in config.projections]
    expected = {f"{name}.{part}" for name in names for part in parts}
    if missing := sorted(expected - adapter.weights.keys()):
        raise AdapterError(
            f"The adapter is incomplete, {listed(missing)} is missing; a projection must be there in all of its "
            f"{config.num_layers} layers."
        )
    if unexpected := sorted(adapter.weights.keys() - expected):
        raise AdapterError(
            f"The adapter holds tensors that do not belong to it: {listed(unexpected)}; it declares the projections "
            f"{''.join(config.projections)} of {config.num_layers} layers."
        )


def listed(names: list[str]) -> str:
    """The first few names for a message, and the number of the others."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
