"""Freed pages stay with the process and threads keep to the quota, unless the user said otherwise."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from focusdoc.errors import ConfigError
from focusdoc.modeling import process
from focusdoc.modeling.base import BaseModel
from focusdoc.modeling.process import keep_freed_pages, prepare_process
from tiny_models import tiny_model

_FAULTS = """
import resource, torch
from focusdoc.modeling.process import keep_freed_pages
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


class TestThreads:
    """A container with a quota of one processor, on a machine of many."""

    @pytest.fixture(autouse=True)
    def _quota(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr(process, "num_cpus", lambda: 1)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        before = torch.get_num_threads()
        torch.set_num_threads(3)
        yield
        torch.set_num_threads(before)

    def test_threads_follow_the_quota(self) -> None:
        BaseModel(tiny_model())
        assert torch.get_num_threads() == 1

    def test_a_number_of_the_users_own_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        prepare_process()
        assert torch.get_num_threads() == 3

    def test_all_can_be_left_as_it_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FOCUSDOC_PROCESS", "keep")
        monkeypatch.setattr(process, "keep_freed_pages", lambda: pytest.fail("the C library was set"))
        prepare_process()
        assert torch.get_num_threads() == 3

    def test_another_setting_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FOCUSDOC_PROCESS", "off")
        with pytest.raises(ConfigError, match=r"FOCUSDOC_PROCESS is 'off'; set it to keep"):
            prepare_process()
