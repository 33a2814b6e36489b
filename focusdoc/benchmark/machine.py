"""The machine and the model: what both are, and what the machine can do at most."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from focusdoc import __version__
from focusdoc.engine import FocusEngine
from focusdoc.evaluation.engines import adapter_digest, model_facts

#: Rows of the products that are timed: two chunks of 2,048 tokens, as reading feeds them.
_ROWS = 4096
#: Far beyond any cache.
_STREAMED_BYTES = 256 << 20
_REPEATS = 5


def facts(engine: FocusEngine, text: str) -> dict[str, Any]:
    """What must be the same for two measurements to be compared, and the sizes that a roofline takes."""
    base = engine.base
    head: nn.Module = base.model.get_output_embeddings()
    layers = list(base.decoder.get_submodule("layers").parameters())
    return {
        **model_facts(engine),
        "adapter": adapter_digest(engine.adapter),
        "chunk_size": engine.chunk_size,
        "context_length": base.context_length,
        "kv_bytes_per_token": base.kv_bytes_per_token,
        # A product of [rows, in] and [in, out] takes rows * in * out multiplications and as many additions.
        "linear_operations_per_token": 2 * sum(weight.numel() for weight in _linear_weights(base.decoder)),
        "weight_bytes": sum(each.nbytes for each in (*layers, *head.parameters())),
        "candidate_bytes": _candidate_bytes(engine),
        "text": hashlib.sha256(text.encode()).hexdigest()[:12],
        "device": str(base.device),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "focusdoc": __version__,
    }


def rates(engine: FocusEngine) -> dict[str, float]:
    """Operations per second of matrix products of the model's own shapes, and bytes per second from memory.

    Of both the best of all tries: a roofline is what can be reached at all.
    """
    base = engine.base
    products = []
    for shape in {tuple(weight.shape) for weight in _linear_weights(base.decoder)}:
        weight = torch.randn(shape, dtype=base.dtype, device=base.device)
        rows = torch.randn(_ROWS, shape[1], dtype=base.dtype, device=base.device)
        products.append(2 * _ROWS * weight.numel() / _best_seconds(partial(torch.nn.functional.linear, rows, weight)))
    streamed = torch.ones(_STREAMED_BYTES // 4, device=base.device)
    target = torch.empty_like(streamed)
    read = _STREAMED_BYTES / _best_seconds(streamed.sum)
    copied = 2 * _STREAMED_BYTES / _best_seconds(lambda: target.copy_(streamed))
    return {"operations": max(products), "bandwidth": max(read, copied)}


def _candidate_bytes(engine: FocusEngine) -> int:
    if engine.adapter is None:
        return 0
    return sum(weight.nbytes for layer in engine.require_adapter() for weight in layer.values())


def _linear_weights(decoder: nn.Module) -> list[torch.Tensor]:
    return [module.weight for module in decoder.modules() if isinstance(module, nn.Linear)]


def _best_seconds(work: Callable[[], torch.Tensor]) -> float:
    work()  # the first call also sets up
    best = float("inf")
    for _ in range(_REPEATS):
        begun = time.perf_counter()
        settle(work())
        best = min(best, time.perf_counter() - begun)
    return best


def settle(tensor: torch.Tensor) -> None:
    """Wait until `tensor` is computed; a GPU works on its own."""
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)


def _processor() -> str:
    """The processor's name, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
