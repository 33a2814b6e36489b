"""What a model on a CPU sets for the whole process, once: memory that is freed stays, and threads keep to the quota.

By default the C library gives a freed buffer of more than 128 KiB back to the system at once, and the system clears
every page before it hands it out anew: a quarter of the time that reading takes. And torch starts a thread for every
processor of the machine, however few a container may use. ``FOCUSDOC_PROCESS=keep`` leaves both as they are.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

import torch

from focusdoc.container import num_cpus
from focusdoc.errors import ConfigError

#: Environment variable that leaves the process as it is.
PROCESS_VARIABLE = "FOCUSDOC_PROCESS"
#: Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
#: Free bytes at the end of the heap that are not given back.
KEPT_BYTES = 256 << 20
#: Bytes from which a buffer is mapped on its own, and given back when freed. Those of a reading are smaller (12.6 MB
#: for the default model), those that live as long as a question are not, and would leave holes between the others.
MAPPED_BYTES = 16 << 20
#: Settings of the user's own, which are left as they are.
_OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def prepare_process() -> None:
    """Set what is said above, where neither the user's environment nor `PROCESS_VARIABLE` says otherwise.

    Raises:
        ConfigError: the variable holds something else than it may.
    """
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
    """Have the C library keep up to `KEPT_BYTES` that were freed, for this process; once is enough.

    Returns:
        Whether it does: not where it is not glibc, or where the user's environment has settings of its own.
    """
    if sys.platform != "linux" or any(name in os.environ for name in _OWN_SETTINGS):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):  # musl has none
        return False
    return bool(library.mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES) and library.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES))
