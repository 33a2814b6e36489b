"""Limits of a container's control groups on this process: bytes of memory, and CPUs.

Inside a container the system still reports the whole machine; what counts is the tightest of the process's nested
control groups (Linux, versions 1 and 2). A process that exceeds the memory limit is killed, and one with more threads
than its CPU quota is throttled most of the time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PROCESS = Path("/proc/self")
#: Version 1 limits from here on mean no limit.
_NO_LIMIT = 1 << 60


def memory_left(process: Path = _PROCESS) -> int | None:
    """Bytes that the control groups of this process may still allocate; None without a limit.

    The page cache counts as free: it is reclaimed first.
    """
    left = [
        limit - max(0, usage - files)
        for group, version in _groups("memory", process)
        for limit, usage, files in [_memory(group, version)]
        if limit is not None
    ]
    return max(0, min(left)) if left else None


def num_cpus(process: Path = _PROCESS) -> int:
    """CPUs that this process may keep busy, at least 1: those of its affinity, within the quotas of its groups."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    quotas = (_cpus(group, version) for group, version in _groups("cpu", process))
    counts = [len(affinity(0)) if affinity else os.cpu_count() or 1, *(int(each) for each in quotas if each)]
    return max(1, min(counts))


def _memory(group: Path, version: int) -> tuple[int | None, int, int]:
    """Limit, usage and page cache in bytes."""
    if version == 2:
        limits = [limit for name in ("memory.max", "memory.high") if (limit := _number(group / name)) is not None]
        usage, prefix = _number(group / "memory.current"), ""
    else:
        limits = [limit for limit in [_number(group / "memory.limit_in_bytes")] if limit and limit < _NO_LIMIT]
        usage, prefix = _number(group / "memory.usage_in_bytes"), "total_"
    stat = dict(line.split()[:2] for line in _read(group / "memory.stat").splitlines() if " " in line)
    files = sum(int(stat.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
    return min(limits, default=None), usage or 0, files


def _cpus(group: Path, version: int) -> float | None:
    """The CPU quota in CPUs; None without one."""
    if version == 2:
        quota, _, period = _read(group / "cpu.max").strip().partition(" ")
    else:
        quota, period = (_read(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    with suppress(ValueError, ZeroDivisionError):  # "max", -1, or no such file
        return int(quota) / int(period) if int(quota) > 0 else None
    return None


def _groups(controller: str, process: Path) -> Iterator[tuple[Path, int]]:
    """The folders of the process's group under `controller` and of all its ancestors, each with its version."""
    paths: dict[str, str] = {}
    for line in _read(process / "cgroup").splitlines():
        _, names, path = line.split(":", 2) if line.count(":") > 1 else ("", "none", "")
        paths.update(dict.fromkeys(names.split(","), path))
    for line in _read(process / "mountinfo").splitlines():
        # "31 23 0:28 /root /mount/point options - type source super-options"
        before, _, after = line.partition(" - ")
        if len(fields := before.split()) < 5 or len(kind := after.split()) < 3:
            continue
        if kind[0] == "cgroup2" and "" in paths:
            version, path = 2, paths[""]
        elif kind[0] == "cgroup" and controller in kind[2].split(",") and controller in paths:
            version, path = 1, paths[controller]
        else:
            continue
        root, mount = fields[3], Path(_unescaped(fields[4]))
        inside = path.removeprefix(root) if root != "/" else path
        group = mount / inside.lstrip("/")
        while True:
            yield group, version
            if group == mount or mount not in group.parents:
                break
            group = group.parent


def _unescaped(path: str) -> str:
    """A path of mountinfo, where a space is written as \\040."""
    return path.replace("\\040", " ")


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdecimal() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
