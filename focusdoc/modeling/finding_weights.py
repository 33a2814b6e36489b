"""What makes an adapter's candidates find passages: trained weights beside the adapter's own.

The candidates of an adapter are trained to carry an answer into the local context, and where they attend in their
chunk is a by-product. With these weights they attend to the passage that answers the question, and their values say
whether their chunk has it (`focusdoc.training.finding`). They serve a `Finder` only; answers that the base model writes
itself use the adapter as it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from focusdoc.errors import AdapterError

FINDING_FILE = "finding.safetensors"


@dataclass(frozen=True, eq=False)
class FindingWeights:
    """Weights for finding, of one adapter.

    Attributes:
        added: for each projection of the adapter, A [rank, in_features] as ``layers.{i}.{letter}.a`` and B
            [out_features, rank] as ``...b``; `focusdoc.modeling.low_rank.adapter_that_finds` adds B A to its weights.
            Empty if the adapter's own weights find.
        heads: weight of each head's token scores, float32 [num_layers, num_heads]. Their scale does not change the
            order of windows, only the peak that an answer's confidence follows from (`focusdoc.readers.confidence`).
        relevance: weights of a candidate's values, whose sum says how likely its chunk has the answer, float32
            [num_layers, num_kv_heads, head_dim].
        signals: the finder's weights of token scores, relevance and BM25.
    """

    added: Mapping[str, Tensor]
    heads: Tensor
    relevance: Tensor
    signals: tuple[float, float, float]


def save_finding(finding: FindingWeights, file: Path) -> None:
    """Write the weights to `file`, the low-rank ones in bfloat16."""
    from safetensors.torch import save_file

    tensors = {name: each.detach().to("cpu", torch.bfloat16).contiguous() for name, each in finding.added.items()}
    tensors |= {name: getattr(finding, name).detach().cpu().contiguous() for name in ("heads", "relevance")}
    save_file(tensors, file, metadata={"signals": json.dumps(finding.signals)})


def load_finding(file: Path) -> FindingWeights:
    """Read what `save_finding` wrote.

    Raises:
        AdapterError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # not a dict
        looked, relevant, words = (float(each) for each in json.loads(metadata["signals"]))
        heads, relevance = tensors.pop("heads"), tensors.pop("relevance")
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise AdapterError(f"The weights in {file} are damaged or unreadable ({error}); get the file again.") from error
    possible = all(each.is_floating_point() and each.isfinite().all() for each in (*tensors.values(), heads, relevance))
    if not possible or heads.ndim != 2 or relevance.ndim != 3 or not math.isfinite(looked + relevant + words):
        raise AdapterError(f"The weights in {file} are damaged: a shape or value is impossible; get the file again.")
    return FindingWeights(tensors, heads.float(), relevance.float(), (looked, relevant, words))
