"""Process-wide settings for models on the CPU: keep freed memory, and limit threads to the container's quota.

By default glibc returns freed buffers above 128 KiB to the system at once, and the system zeroes every page before
reuse: a quarter of the time that reading takes. And torch starts a thread per processor of the machine, even in a
container that may use fewer. ``FOCUSDOC_PROCESS=keep`` changes neither.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

import torch

from focusdoc.container import num_cpus
from focusdoc.errors import ConfigError

#: Environment variable to leave the process unchanged.
PROCESS_VARIABLE = "FOCUSDOC_PROCESS"
#: Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
#: Free bytes at the end of the heap that are not returned to the system.
KEPT_BYTES = 256 << 20
#: Buffers from this size on are mapped separately, and returned when freed. Reading uses smaller ones (12.6 MB for the
#: default model); larger ones live as long as a question, and would fragment the heap.
MAPPED_BYTES = 16 << 20
#: glibc settings of the user, which take precedence.
_OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def prepare_process() -> None:
    """Apply the process-wide settings, unless `PROCESS_VARIABLE` is "keep"; ConfigError for any other value."""
    switch = os.environ.get(PROCESS_VARIABLE, "").strip().lower()
    if switch not in ("", "keep"):
        raise ConfigError(f"{PROCESS_VARIABLE} is {switch!r}; set it to keep, or leave it unset.")
    if switch == "keep":
        return
    keep_freed_pages()
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > num_cpus():
        torch.set_num_threads(num_cpus())


@cache
def keep_freed_pages() -> bool:
    """Make glibc keep up to `KEPT_BYTES` of freed memory; cached, since once is enough.

    Returns:
        Whether it does; False without glibc, or if the environment has malloc settings.
    """
    if sys.platform != "linux" or any(name in os.environ for name in _OWN_SETTINGS):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):  # musl has none
        return False
    return bool(library.mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES) and library.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES))


def check_no_fork(process: int, model: str) -> None:
    """Raise ConfigError in a fork of the `process` that loaded a model, where torch's threads do not exist."""
    if os.getpid() != process:
        raise ConfigError(
            f"{model} was loaded in process {process}, and this is its fork {os.getpid()}, where torch would wait "
            "forever for threads that were not copied; load the model in the child process, or start it with "
            "multiprocessing's 'spawn' (gunicorn: without --preload)."
        )
