"""What a container leaves to a process, read from folders laid out as Linux lays them out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from focusdoc.container import memory_left, num_cpus
from focusdoc.memory import plan

GB = 1 << 30


class Machine:
    """A process's own folder of /proc, and the mounted groups."""

    def __init__(self, folder: Path) -> None:
        self.process = folder / "proc"
        self.process.mkdir()
        self.mounts = folder / "sys fs"  # a space, as mount points may have
        self.belongs: list[str] = []
        self.mounted: list[str] = []

    def group(self, path: str, **files: str) -> None:
        folder = self.mounts / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text + "\n")

    def mount(self, point: str, kind: str, options: str, root: str = "/") -> None:
        where = str(self.mounts / point).replace(" ", "\\040")
        self.mounted.append(f"31 23 0:28 {root} {where} rw,relatime shared:9 - {kind} cgroup rw,{options}")
        self._write()

    def belong(self, line: str) -> None:
        self.belongs.append(line)
        self._write()

    def _write(self) -> None:
        (self.process / "cgroup").write_text("".join(f"{line}\n" for line in self.belongs))
        (self.process / "mountinfo").write_text("".join(f"{line}\n" for line in self.mounted))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def two(machine: Machine, path: str = "/") -> None:
    machine.belong(f"0::{path}")
    machine.mount("", "cgroup2", "nsdelegate")


def one(machine: Machine, controllers: str, path: str = "/", root: str = "/") -> None:
    machine.belong(f"4:{controllers}:{path}")
    machine.mount(controllers, "cgroup", controllers, root)


class TestMemory:
    def test_version_2_the_limit_less_what_is_used_and_cannot_go(self, machine: Machine) -> None:
        two(machine)
        stat = f"anon {GB}\nfile {2 * GB}\ninactive_file {GB}\nactive_file {GB // 2}"
        machine.group("", memory__max=str(4 * GB), memory__current=str(3 * GB), memory__stat=stat)
        assert memory_left(machine.process) == 4 * GB - (3 * GB - GB - GB // 2)

    def test_version_2_the_narrowest_of_all_groups_around_it(self, machine: Machine) -> None:
        two(machine, "/pod/container")
        machine.group("pod/container", memory__max="max", memory__high=str(3 * GB), memory__current=str(GB))
        machine.group("pod", memory__max=str(2 * GB), memory__current=str(GB + GB // 2))
        machine.group("", memory__current=str(9 * GB))
        assert memory_left(machine.process) == GB // 2

    def test_version_1(self, machine: Machine) -> None:
        one(machine, "cpuset,memory", "/docker/abc")
        stat = f"inactive_file 5\ntotal_inactive_file {GB}\ntotal_active_file 0"
        files = {"memory__limit_in_bytes": str(4 * GB), "memory__usage_in_bytes": str(2 * GB)}
        machine.group("cpuset,memory/docker/abc", **files, memory__stat=stat)
        assert memory_left(machine.process) == 3 * GB

    def test_version_1_where_the_group_itself_is_what_is_mounted(self, machine: Machine) -> None:
        one(machine, "memory", "/docker/abc", root="/docker/abc")
        machine.group("memory", memory__limit_in_bytes=str(GB), memory__usage_in_bytes="0")
        assert memory_left(machine.process) == GB

    def test_no_limit_is_none(self, machine: Machine) -> None:
        two(machine)
        one(machine, "memory")
        machine.group("", memory__max="max", memory__current=str(GB))
        machine.group("memory", memory__limit_in_bytes="9223372036854771712", memory__usage_in_bytes=str(GB))
        assert memory_left(machine.process) is None

    def test_more_used_than_allowed_leaves_nothing(self, machine: Machine) -> None:
        two(machine)
        machine.group("", memory__max=str(GB), memory__current=str(2 * GB))
        assert memory_left(machine.process) == 0

    @pytest.mark.parametrize("content", ["", "nonsense", "a:b\n::\n", "\x00\x00"])
    def test_another_system_or_a_damaged_file_is_no_limit(self, machine: Machine, content: str) -> None:
        (machine.process / "mountinfo").write_text(content)
        (machine.process / "cgroup").write_text(f"0::/\n{content}")
        assert memory_left(machine.process) is None
        assert memory_left(machine.process / "none") is None

    def test_free_is_what_the_container_leaves(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = plan.free_bytes(torch.device("cpu"))
        monkeypatch.setattr(plan, "memory_left", lambda: 12345)
        assert whole > 12345
        assert plan.free_bytes(torch.device("cpu")) == 12345


class TestProcessors:
    @pytest.fixture(autouse=True)
    def _many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)

    @pytest.mark.parametrize(
        ("quota", "count"), [("max 100000", 64), ("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1)]
    )
    def test_version_2(self, machine: Machine, quota: str, count: int) -> None:
        two(machine, "/a")
        machine.group("a", cpu__max=quota)
        assert num_cpus(machine.process) == count

    @pytest.mark.parametrize(("quota", "count"), [("-1", 64), ("400000", 4)])
    def test_version_1(self, machine: Machine, quota: str, count: int) -> None:
        one(machine, "cpu,cpuacct", "/a")
        machine.group("cpu,cpuacct/a", cpu__cfs_quota_us=quota, cpu__cfs_period_us="100000")
        assert num_cpus(machine.process) == count

    def test_the_processors_it_may_run_on(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 4})
        assert num_cpus(machine.process) == 2
