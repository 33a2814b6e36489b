"""How much memory a piece of work takes at its peak, beyond what its process held before."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

import psutil
import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
#: Writing this to `_CLEAR` sets the peak back to what is resident now (proc(5)).
_RESET_PEAK = "5"


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
        _trim()
        if _CLEAR.exists():
            _CLEAR.write_text(_RESET_PEAK)
        self.before = int(psutil.Process().memory_info().rss)

    def growth(self) -> int:
        """The most bytes that were held at once since then, above those held before."""
        if self._device.type == "cuda":
            return max(0, torch.cuda.max_memory_allocated(self._device) - self.before)
        return max(0, _peak_resident() - self.before)


def _trim() -> None:
    """Give free memory back to the system; else what loading left behind would be filled without being counted."""
    gc.collect()
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def _peak_resident() -> int:
    """The most bytes of this process that were in memory at once."""
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
