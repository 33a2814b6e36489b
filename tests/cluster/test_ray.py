"""Holders as processes of Ray: the same answers, also when one of them is killed or stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from focusdoc import FocusConfig, FocusEngine
from focusdoc.cluster import ray_holders
from focusdoc.cluster.head import Cluster
from focusdoc.cluster.holder import HolderSettings
from focusdoc.cluster.ray_holders import RayHolders, open_cluster
from focusdoc.errors import ClusterError, MemoryMismatchError, WorkerLostError
from focusdoc.modeling.base import BaseModel
from tiny_models import random_adapter, save_tiny, tiny_model

TEXT = b"The keeper of the lighthouse counts ships at dawn. " * 40
NEW = 40


@pytest.fixture(scope="module")
def alone(tiny_tokenizer: Any) -> FocusEngine:
    """One process, the judge."""
    model = tiny_model("llama", vocab_size=len(tiny_tokenizer), max_position_embeddings=4096)
    base = BaseModel(model, tiny_tokenizer, "tiny")
    config = FocusConfig(chunk_size=64, local_window=512, quote_tokens=64)
    return FocusEngine(base, random_adapter(model), config, store=None)


@pytest.fixture(scope="module")
def settings(alone: FocusEngine) -> HolderSettings:
    model, fingerprint = alone.base.model, alone.base.fingerprint
    return HolderSettings(model=model, adapter=alone.adapter, fingerprint=fingerprint, store=None)


@pytest.fixture(scope="module")
def spread(alone: FocusEngine, settings: HolderSettings) -> Iterator[FocusEngine]:
    """Two processes; whatever a test does to one of them, there are two for the next."""
    ray = pytest.importorskip("ray", reason="Ray is not installed (the extra cluster)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ray_holders.TIMEOUT_VARIABLE, "2")
        patch.setattr(ray_holders, "_PATIENCE", 0.5)
        with ThreadPoolExecutor(1) as pool:  # as a server does: the thread ends, the cluster stays
            cluster = pool.submit(open_cluster, 2, settings).result()
        yield FocusEngine(alone.base, alone.adapter, alone.config, store=None, cluster=cluster)
    ray.shutdown()


def is_holder(process: psutil.Process) -> bool:
    try:
        return "ray::Actor" in process.cmdline()[0]
    except (psutil.NoSuchProcess, IndexError):  # it is ending
        return False


def processes(count: int = 2) -> list[psutil.Process]:
    """The holders' processes, oldest first; a stopped one takes Ray some seconds to end."""
    until = time.monotonic() + 30
    while True:
        found = [each for each in psutil.Process().children(recursive=True) if is_holder(each)]
        if len(found) == count or time.monotonic() > until:
            return sorted(found, key=psutil.Process.create_time)
        time.sleep(0.1)


@pytest.mark.slow
class TestFaults:
    def test_answers_are_those_of_one_process(self, alone: FocusEngine, spread: FocusEngine) -> None:
        one, other = (each.ask(each.read(TEXT), "What?", max_new_tokens=NEW) for each in (alone, spread))
        assert other.token_ids == one.token_ids
        assert [(each.start, each.end) for each in other.sources] == [(each.start, each.end) for each in one.sources]
        assert [each.nice() for each in processes()] == [psutil.Process().nice()] * 2

    @pytest.mark.parametrize("which", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
    @pytest.mark.parametrize("after", [0, 7], ids=["before the answer", "within it"])
    def test_a_lost_process_changes_nothing(
        self, alone: FocusEngine, spread: FocusEngine, which: signal.Signals, after: int
    ) -> None:
        expected = alone.ask(alone.read(TEXT), "What?", max_new_tokens=NEW)
        memory = spread.read(TEXT)
        pieces = spread.stream(memory, "What?", max_new_tokens=NEW)
        if after:
            next(pieces)
        processes()[1].send_signal(which)
        *_, last = pieces
        assert last.answer is not None
        assert last.answer.token_ids == expected.token_ids
        assert last.answer.usage.lost_workers == 1
        assert len(processes()) == 2

    def test_so_does_one_lost_while_documents_are_read(self, alone: FocusEngine, spread: FocusEngine) -> None:
        killed: list[int] = []

        def progress(done: int, total: int) -> None:
            if not killed:
                killed.append(done)
                processes()[0].kill()

        memory = spread.read(TEXT, progress=progress)
        assert 0 < killed[0] < memory.num_tokens
        expected = alone.ask(alone.read(TEXT), "What?", max_new_tokens=NEW)
        assert spread.ask(memory, "What?", max_new_tokens=NEW).token_ids == expected.token_ids

    def test_a_new_one_that_dies_while_it_loads_is_replaced_too(
        self, alone: FocusEngine, spread: FocusEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import ray

        assert spread.cluster is not None
        load, died = spread.cluster.holders._load, []

        def dies_once(actors: dict[int, Any]) -> None:
            if not died:
                died.extend(actors.values())
                ray.kill(died[0])
            load(actors)

        monkeypatch.setattr(spread.cluster.holders, "_load", dies_once)
        memory = spread.read(TEXT)
        processes()[0].kill()
        answer = spread.ask(memory, "What?", max_new_tokens=NEW)
        assert len(died) == 1
        assert answer.usage.lost_workers == 1
        assert answer.token_ids == alone.ask(alone.read(TEXT), "What?", max_new_tokens=NEW).token_ids

    def test_without_a_place_for_another_it_says_what_is_lost(
        self, spread: FocusEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        memory = spread.read(TEXT)
        assert spread.cluster is not None
        monkeypatch.setattr(ray_holders, "_START", 2.0)
        monkeypatch.setattr(spread.cluster.holders, "_resources", {"num_cpus": 99})
        processes()[0].kill()
        with pytest.raises(WorkerLostError, match="found no place"):
            spread.ask(memory, "What?", max_new_tokens=2)
        monkeypatch.undo()
        assert spread.ask(memory, "What?", max_new_tokens=2).usage.lost_workers == 1  # there is a place again

    def test_a_cluster_that_is_too_small(self, spread: FocusEngine, settings: HolderSettings) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ray_holders, "_START", 2.0)
            with pytest.raises(ClusterError, match="found no place within 2 s: each takes 99 CPU"):
                RayHolders(2, settings, {"num_cpus": 99})

    def test_another_model_is_refused_by_name(self, spread: FocusEngine, settings: HolderSettings) -> None:
        import dataclasses

        with pytest.raises(MemoryMismatchError, match="fingerprint"):
            RayHolders(1, dataclasses.replace(settings, fingerprint="0" * 64), {"num_cpus": 0})

    def test_two_heads_do_not_disturb_each_other(
        self, alone: FocusEngine, spread: FocusEngine, settings: HolderSettings
    ) -> None:
        second = Cluster(RayHolders(1, settings, {"num_cpus": 0}))
        other = FocusEngine(alone.base, alone.adapter, alone.config, store=None, cluster=second)
        one, two = (each.ask(each.read(TEXT), "What?", max_new_tokens=4) for each in (spread, other))
        assert one.token_ids == two.token_ids
        second.holders.close()
        assert spread.ask(spread.read(TEXT), "What?", max_new_tokens=4).token_ids == one.token_ids


@pytest.mark.slow
def test_a_lost_process_does_not_disturb_json(tmp_path: Path, tiny_tokenizer: Any) -> None:
    """Ray would print a paragraph about it between the lines of `focusdoc ask --json`."""
    pytest.importorskip("ray", reason="Ray is not installed (the extra cluster)")
    settings = save_tiny(tmp_path, tiny_tokenizer)
    (tmp_path / "text.txt").write_bytes(TEXT)
    options = ["--cluster", "2", "--reader", "none", "--no-store", "--chunk-size", "64", "--json"]
    script = f"""
        import os, sys
        import psutil
        from focusdoc.cli.main import app
        from focusdoc.engine import FocusEngine
        stream = FocusEngine.stream
        def killing(self, *args, **options):
            found = [each for each in psutil.Process().children(recursive=True) if "ray::Actor" in each.cmdline()[0]]
            found[0].kill()
            yield from stream(self, *args, **options)
        FocusEngine.stream = killing
        app(["ask", {str(tmp_path / "text.txt")!r}, "What?", "--max-new-tokens", "4",
             "--model", {settings["model"]!r}, "--adapter", {settings["adapter"]!r}, *{options!r}])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False, timeout=240
    )
    assert json.loads(done.stdout)["usage"]["lost_workers"] == 1, done.stderr
    assert "Token authentication" not in done.stderr


@pytest.mark.slow
def test_nothing_runs_on_when_the_head_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (the extra cluster)")
    helpers = Path(__file__).parents[1] / "helpers"
    script = f"""
        import os, sys, time
        sys.path.insert(0, {str(helpers)!r})
        import psutil
        from focusdoc.cluster.holder import HolderSettings
        from focusdoc.cluster.ray_holders import open_cluster
        from focusdoc.modeling.base import BaseModel
        from tiny_models import tiny_model
        base = BaseModel(tiny_model("llama"))
        settings = HolderSettings(model=base.model, adapter=None, fingerprint=base.fingerprint, store=None)
        cluster = open_cluster(2, settings)
        children = psutil.Process().children(recursive=True)
        print(*(each.pid for each in children if "ray::Actor" in each.cmdline()[0]), flush=True)
        time.sleep(600)
    """
    head = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert head.stdout is not None
    started = [int(pid) for pid in head.stdout.readline().split()]
    assert len(started) == 2
    os.kill(head.pid, signal.SIGKILL)
    head.wait()
    until = time.monotonic() + 30
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in started):
        assert time.monotonic() < until, "processes of the cluster are left"
        time.sleep(0.2)
