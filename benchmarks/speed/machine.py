"""The machine and the model: what both are, what the machine can do at most, and what memory a piece of work takes."""

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
from focusdoc.evaluation.engines import adapter_digest, model_facts

#: Rows of the products that are timed: two chunks of 2,048 tokens, as reading feeds them.
_ROWS = 4096
#: Far beyond any cache.
_STREAMED_BYTES = 256 << 20
_REPEATS = 5
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
#: Writing this to `_CLEAR` sets the peak back to what is resident now (proc(5)).
_RESET_PEAK = "5"


def facts(engine: FocusEngine, text: str) -> dict[str, Any]:
    """What must be the same for two measurements to be compared, and the sizes that a roofline takes."""
    base, adapter = engine.base, engine.adapter
    head: nn.Module = base.model.get_output_embeddings()
    layers = list(base.decoder.get_submodule("layers").parameters())
    candidates = [] if adapter is None else [each for layer in engine.require_adapter() for each in layer.values()]
    return {
        **model_facts(engine),
        "adapter": adapter_digest(adapter),
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
    """Operations per second of matrix products of the model's own shapes, and bytes per second from memory.

    Of both the best of all tries: a roofline is what can be reached at all.
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
    """Wait until everything is computed; a GPU works on its own."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class PeakMemory:
    """Watches the memory of this process, or of the GPU that it works on, from when it is made.

    Attributes:
        before: bytes held then.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
            return
        # Free memory is given back to the system; else what loading left behind would be filled without being counted.
        gc.collect()
        if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
            library.malloc_trim(0)
        if _CLEAR.exists():
            _CLEAR.write_text(_RESET_PEAK)
        self.before = int(psutil.Process().memory_info().rss)

    def growth(self) -> int:
        """The most bytes that were held at once since then, above those held before."""
        on_gpu = self._device.type == "cuda"
        return max(0, (torch.cuda.max_memory_allocated(self._device) if on_gpu else _peak_resident()) - self.before)


def _peak_resident() -> int:
    """The most bytes of this process that were in memory at once."""
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
        begun = time.perf_counter()
        settle(work().device)
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def _processor() -> str:
    """The processor's name, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
