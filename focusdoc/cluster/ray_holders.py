"""Holders as Ray actors: Ray places and monitors their processes, and carries the messages."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import torch

from focusdoc.cluster.head import Call, Cluster, HolderLostError
from focusdoc.cluster.holder import Holder, HolderSettings, UnknownQuestionError
from focusdoc.config import at_least
from focusdoc.errors import ClusterError, ConfigError, FocusdocError, WorkerLostError, first_line

#: Environment variable: seconds to wait for a health check before a holder counts as lost.
TIMEOUT_VARIABLE = "FOCUSDOC_CLUSTER_TIMEOUT"
_TIMEOUT = 30.0
#: Seconds to wait for a call before its holder's health is checked.
_PATIENCE = 2.0
#: Timeout in seconds for a holder to be placed, start and load its model.
_START = 300.0
#: Timeout in seconds to connect to the address of a cluster.
_ANSWER = 5.0
#: Maximum attempts to replace a lost holder, if replacements die while loading their model.
_STARTS = 3
#: Maximum concurrent calls of a holder.
_CONCURRENCY = 64


class Actor:
    """A holder in its own process, with a health check."""

    def __init__(self) -> None:
        self._holder: Holder | None = None

    def load(self, settings: HolderSettings) -> str:
        """Load the model; returns the host, or the GPU, whose memory it uses."""
        import ray

        self._holder = Holder(settings)
        context = ray.get_runtime_context()
        gpus = ray.get_gpu_ids()
        return f"{context.get_node_id()} {gpus[0] if gpus else ''}".strip()

    def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """Call a method of the holder."""
        return getattr(self._holder, method)(*arguments)

    def is_alive(self) -> bool:
        """The health check: True."""
        return True


class _DiedError(ClusterError):
    """A holder died while loading its model."""


class RayHolders:
    """See `focusdoc.cluster.head.Holders`; each takes Ray's `resources`, such as ``{"num_cpus": 1}``.

    Raises:
        ClusterError: they cannot all be placed. MemoryMismatchError: a host has another model or version of focusdoc.
    """

    def __init__(self, count: int, settings: HolderSettings, resources: Mapping[str, float]) -> None:
        import ray

        self._ray = ray
        self._resources = dict(resources)
        self._timeout = _timeout()
        self._settings = ray.put(settings)
        self._lock = threading.Lock()
        self._generations = [0] * count
        self._actors = [self._actor() for _ in range(count)]
        self._hosts = [""] * count
        try:
            self._load(dict(enumerate(self._actors)))
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._actors)

    def call(self, calls: Mapping[int, Call]) -> dict[int, Any]:
        """See `Holders.call`."""
        generations = {index: self._generations[index] for index in calls}
        actors = {index: self._actors[index] for index in calls}
        waiting = {actors[index].call.remote(*call): index for index, call in calls.items()}
        found: dict[int, Any] = {}
        while waiting:
            ready, pending = self._ray.wait(list(waiting), num_returns=len(waiting), timeout=_PATIENCE)
            for each in ready:
                index = waiting.pop(each)
                found[index] = self._result(each, generations[index])
            hanging = self._hanging({index: actors[index] for index in (waiting[each] for each in pending)})
            for each in pending:
                if (index := waiting[each]) in hanging:
                    del waiting[each]
                    found[index] = HolderLostError(f"no response for {self._timeout:g} s", generations[index])
        return found

    def tell(self, index: int, call: Call) -> None:
        """See `Holders.tell`."""
        self._actors[index].call.remote(*call)

    def replace(self, index: int, generation: int) -> bool:
        """See `Holders.replace`."""
        with self._lock:
            if self._generations[index] != generation:
                return False
            self._ray.kill(self._actors[index])
            # Until the replacement has loaded its model, calls still go to the lost holder.
            self._actors[index] = self._another(index)
            self._generations[index] += 1
            return True

    def _another(self, index: int, starts: int = _STARTS) -> Any:
        """A new actor to replace a lost one, with its model loaded."""
        actor = self._actor()
        try:
            self._load({index: actor})
        except BaseException as error:
            self._ray.kill(actor)  # else it might still be placed later, without its parts
            if isinstance(error, _DiedError) and starts > 1:
                return self._another(index, starts - 1)
            if isinstance(error, ClusterError):
                raise WorkerLostError(f"A process that kept chunks was lost, and {error}") from error
            raise
        return actor

    def hosts(self) -> list[str]:
        """See `Holders.hosts`."""
        return list(self._hosts)

    def close(self) -> None:
        """See `Holders.close`."""
        if self._ray.is_initialized():
            for actor in self._actors:
                self._ray.kill(actor)

    def _actor(self) -> Any:
        # No restarts by Ray: a replacement must read its parts first.
        options = {"max_restarts": 0, "max_concurrency": _CONCURRENCY, "scheduling_strategy": "SPREAD"}
        return self._ray.remote(**options, **self._resources)(Actor).remote()

    def _load(self, actors: Mapping[int, Any]) -> None:
        """Have placed actors load their models, and wait for all; ClusterError if it takes too long or one dies."""
        waiting = {actor.load.remote(self._settings): index for index, actor in actors.items()}
        ready, pending = self._ray.wait(list(waiting), num_returns=len(waiting), timeout=_START)
        for each in ready:
            host = self._result(each, 0)
            if isinstance(host, HolderLostError):
                raise _DiedError(f"a new one died while loading its model: {host}.")
            self._hosts[waiting[each]] = host
        if pending:
            free = self._ray.available_resources()
            taken = (f"{count:g} {name.removeprefix('num_').upper()[:-1]}" for name, count in self._resources.items())
            raise ClusterError(
                f"{len(pending)} of {len(waiting)} processes found no place within {_START:g} s: each takes "
                f"{' and '.join(taken)}, and the cluster has {free.get('CPU', 0):g} CPUs and "
                f"{free.get('GPU', 0):g} GPUs left; ask for fewer, or add hosts."
            )

    def _result(self, reference: Any, generation: int) -> Any:
        """A call's result, or its HolderLostError or UnknownQuestionError."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayActorError as error:
            return HolderLostError(first_line(error), generation)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            if isinstance(cause, UnknownQuestionError):
                return cause
            raise cause from (None if isinstance(cause, FocusdocError) else error)

    def _hanging(self, actors: Mapping[int, Any]) -> set[int]:
        """The holders of those actors that do not answer a health check in time."""
        if not actors:
            return set()
        asked = {actor.is_alive.remote(): index for index, actor in actors.items()}
        _, silent = self._ray.wait(list(asked), num_returns=len(asked), timeout=self._timeout)
        return {asked[each] for each in silent}


def open_cluster(where: int | str, settings: HolderSettings) -> Cluster:
    """Open the cluster that a setting names.

    Args:
        where: a number of processes on this machine, ``"auto"`` for the Ray cluster that this machine belongs to, or
            the address of a Ray cluster. A Ray cluster gets a holder per GPU, or per host if there is no GPU to use.

    Raises:
        ClusterError: Ray is not installed, the address does not answer, or the holders cannot be placed.
        ConfigError: the number is below 1, or the address is for Ray Client.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would print a paragraph about a lost process on standard output; `Cluster` logs it instead.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed")
    try:
        import ray
    except ImportError as error:
        raise ClusterError("A cluster needs Ray; run: pip install 'focusdoc[cluster]'") from error
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if isinstance(where, int) or where.isdigit():
        count = int(where)
        at_least("cluster", count, 1)
        threads = max(1, torch.get_num_threads() // count)
        if not ray.is_initialized():
            os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 would slow them down
            _start(address="local", num_cpus=count, include_dashboard=False, object_store_memory=256 << 20, **quiet)
        # No CPUs are reserved, so that a second cluster of this program can be placed too.
        return Cluster(RayHolders(count, replace(settings, num_threads=threads), {"num_cpus": 0}))
    if where.startswith("ray://"):
        raise ConfigError(f"{where} is for Ray Client; run on a host of the cluster, with its address or auto.")
    if not ray.is_initialized():
        try:
            if where != "auto":  # Ray would retry for minutes
                host, _, port = where.rpartition(":")
                socket.create_connection((host, int(port)), timeout=_ANSWER).close()
            _start(address=where, **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            raise ClusterError(
                f"Nobody answers at the cluster {where} ({first_line(error)}); start it with "
                "`ray start --head`, or give a number of processes on this machine."
            ) from error
    gpus = int(ray.cluster_resources().get("GPU", 0)) if settings.device in ("auto", "cuda") else 0
    hosts = sum(node["Alive"] for node in ray.nodes())
    return Cluster(RayHolders(gpus or hosts, settings, {"num_gpus": 1} if gpus else {"num_cpus": 1}))


def _start(**options: Any) -> None:
    """Call `ray.init` in a thread that stays: on Linux, Ray's processes end with the thread that started them."""
    import ray

    if threading.current_thread() is threading.main_thread():
        ray.init(**options)
        return
    started: Future[Any] = Future()

    def start_and_stay() -> None:
        try:
            started.set_result(ray.init(**options))
        except BaseException as error:
            started.set_exception(error)
            return
        threading.Event().wait()

    threading.Thread(target=start_and_stay, name="focusdoc-ray", daemon=True).start()
    started.result()


def _timeout() -> float:
    """Seconds to wait for a health check; ConfigError if the environment variable is not a positive number."""
    given = os.environ.get(TIMEOUT_VARIABLE, "")
    try:
        seconds = float(given) if given else _TIMEOUT
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise ConfigError(f"{TIMEOUT_VARIABLE} is {given!r}; give a number of seconds, such as 30.")
    return seconds
