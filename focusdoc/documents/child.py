"""Child processes that read untrusted files: how they are started, and how they limit themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ROOT = str(Path(__file__).parents[2])


def run_child(
    module: str, request: Mapping[str, Any], data: bytes, seconds: float
) -> subprocess.CompletedProcess[bytes]:
    """Run a module that reads a line of JSON, then the file's bytes from standard input.

    Raises:
        subprocess.TimeoutExpired: it took longer than `seconds`. OSError: it does not start.
    """
    # -P keeps the current folder off the child's path, which is otherwise the same as here.
    paths = [entry for entry in sys.path if entry]
    return subprocess.run(
        [sys.executable, "-P", "-m", module],
        input=json.dumps(request).encode("ascii") + b"\n" + data,
        capture_output=True,
        timeout=seconds,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*paths, _ROOT])},
        check=False,
    )


def limit_process(memory: int, seconds: int) -> None:
    """Limit this process's address space, in bytes, and CPU time, where the system supports it."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for which, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds)):
        try:
            hard = resource.getrlimit(which)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(which, (value, value))
        except (ValueError, OSError):  # macOS has no limit of memory
            continue
