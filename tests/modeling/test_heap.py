"""Freed pages stay with the process, unless the user said otherwise."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from focusdoc.modeling.heap import keep_freed_pages

_FAULTS = """
import resource, torch
from focusdoc.modeling.heap import keep_freed_pages
{call}
def layer():
    return [torch.ones(2 << 20) for _ in range(4)]  # four buffers of 8 MiB
for _ in range(20):
    layer()  # until every buffer has found its place
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    layer()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
_GLIBC = sys.platform == "linux" and "CS_GNU_LIBC_VERSION" in os.confstr_names


def _page_faults(call: str, **environment: str) -> int:
    code = _FAULTS.format(call=call)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**inherited, **environment}
    )
    return int(done.stdout)


@pytest.mark.skipif(not _GLIBC, reason="this system's C library is not glibc")
def test_buffers_that_are_freed_and_asked_for_again_cost_few_new_pages() -> None:
    asked_for = 20 * 4 * (8 << 20) // resource.getpagesize()
    assert _page_faults("keep_freed_pages()") < asked_for / 8


@pytest.mark.skipif(not _GLIBC, reason="this system's C library is not glibc")
def test_settings_of_the_users_own_are_left_as_they_are() -> None:
    call = "assert not keep_freed_pages()"
    assert _page_faults(call, MALLOC_TRIM_THRESHOLD_="131072") >= 0


def test_asking_twice_is_asking_once() -> None:
    assert keep_freed_pages() is keep_freed_pages()
