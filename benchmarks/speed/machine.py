"""The machine and the model: their properties, the machine's peak rates, and peak memory of a computation."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from focusdoc import __version__
from focusdoc.engine import FocusEngine
from focusdoc.evaluation.engines import model_facts

#: Rows of the timed matrix products: two chunks of 2,048 tokens, as in reading.
_ROWS = 4096
#: Much larger than any cache.
_STREAMED_BYTES = 256 << 20
_REPEATS = 5
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
#: Written to `_CLEAR`, this resets the peak to the current resident size (proc(5)).
_RESET_PEAK = "5"


def facts(engine: FocusEngine, text: str) -> dict[str, Any]:
    """Properties that comparable measurements share, and the sizes for a roofline."""
    base, adapter = engine.base, engine.adapter
    head: nn.Module = base.model.get_output_embeddings()
    layers = list(base.decoder.get_submodule("layers").parameters())
    candidates = [] if adapter is None else [each for layer in engine.require_adapter() for each in layer.values()]
    return {
        **model_facts(engine),
        "adapter": None if adapter is None else adapter.digest()[:12],
        "chunk_size": engine.chunk_size,
        "context_length": base.context_length,
        "kv_bytes_per_token": base.kv_bytes_per_token,
        # A product of [rows, in] and [in, out] takes rows * in * out multiplications and as many additions.
        "linear_operations_per_token": 2 * sum(weight.numel() for weight in _linear_weights(base.decoder)),
        "weight_bytes": sum(each.nbytes for each in (*layers, *head.parameters())),
        "candidate_bytes": sum(each.nbytes for each in candidates),
        "text": hashlib.sha256(text.encode()).hexdigest()[:12],
        "device": str(base.device),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "focusdoc": __version__,
    }


def rates(engine: FocusEngine) -> dict[str, float]:
    """Peak operations per second of matrix products in the model's shapes, and peak memory bandwidth in bytes/s.

    Both are the best of several tries, for a roofline.
    """
    base = engine.base
    products = []
    for shape in {tuple(weight.shape) for weight in _linear_weights(base.decoder)}:
        weight = torch.randn(shape, dtype=base.dtype, device=base.device)
        rows = torch.randn(_ROWS, shape[1], dtype=base.dtype, device=base.device)
        products.append(2 * _ROWS * weight.numel() / _best_seconds(partial(nn.functional.linear, rows, weight)))
    streamed = torch.ones(_STREAMED_BYTES // 4, device=base.device)
    target = torch.empty_like(streamed)
    read = _STREAMED_BYTES / _best_seconds(streamed.sum)
    copied = 2 * _STREAMED_BYTES / _best_seconds(lambda: target.copy_(streamed))
    return {"operations": max(products), "bandwidth": max(read, copied)}


def settle(device: torch.device) -> None:
    """Synchronize a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class PeakMemory:
    """Measures the peak memory of this process, or of its GPU, from its construction on.

    Attributes:
        before: bytes in use at construction.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
            return
        # Return free memory to the system, since reusing it would not count as growth.
        gc.collect()
        if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
            library.malloc_trim(0)
        if _CLEAR.exists():
            _CLEAR.write_text(_RESET_PEAK)
        self.before = int(psutil.Process().memory_info().rss)

    def growth(self) -> int:
        """Peak bytes since construction, minus `before`."""
        on_gpu = self._device.type == "cuda"
        return max(0, (torch.cuda.max_memory_allocated(self._device) if on_gpu else _peak_resident()) - self.before)


def _peak_resident() -> int:
    """The peak resident size of this process in bytes."""
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _linear_weights(decoder: nn.Module) -> list[torch.Tensor]:
    return [module.weight for module in decoder.modules() if isinstance(module, nn.Linear)]


def _best_seconds(work: Callable[[], torch.Tensor]) -> float:
    settle(work().device)  # the first call also sets up
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        settle(work().device)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _processor() -> str:
    """The CPU's name, if available."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
