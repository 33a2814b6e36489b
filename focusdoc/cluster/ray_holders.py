"""Holders as Ray actors: Ray places and watches their processes, and carries what is sent."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from focusdoc.cluster.head import Call, Cluster, HolderLostError
from focusdoc.cluster.holder import Holder, HolderSettings, UnknownQuestionError
from focusdoc.config import at_least
from focusdoc.errors import ClusterError, ConfigError, FocusdocError, WorkerLostError

#: Environment variable: seconds without a sign of life after which a holder counts as lost.
TIMEOUT_VARIABLE = "FOCUSDOC_CLUSTER_TIMEOUT"
_TIMEOUT = 30.0
#: Seconds after which a holder that has not answered is asked whether it is alive.
_PATIENCE = 2.0
#: Seconds for a holder to find a place, start and load its model.
_START = 300.0
#: Seconds for the address of a cluster to answer.
_ANSWER = 5.0
#: How often a holder is started in place of a lost one, if it dies while it loads its model.
_STARTS = 3
#: Calls that a holder works on at once.
_CONCURRENCY = 64


class Actor:
    """A holder in a process of its own, and the answers to whether it is alive."""

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
        """True."""
        return True


class _DiedError(ClusterError):
    """A holder died while it loaded its model."""


class RayHolders:
    """See `focusdoc.cluster.head.Holders`.

    Args:
        count: number of holders.
        resources: what each of them takes of Ray's, such as ``{"num_cpus": 1}``.

    Raises:
        ClusterError: there is no place for all of them. MemoryMismatchError: a host has another model.
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
                    found[index] = HolderLostError(f"no sign of life for {self._timeout:g} s", generations[index])
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
            # Until another one's model is loaded, calls find the lost one.
            self._actors[index] = self._another(index)
            self._generations[index] += 1
            return True

    def _another(self, index: int, starts: int = _STARTS) -> Any:
        """A new actor with its model, in place of a lost one."""
        actor = self._actor()
        try:
            self._load({index: actor})
        except BaseException as error:
            self._ray.kill(actor)  # should it find a place later, it would lack its parts
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
        # A lost holder is started again here, since it has to read its parts first.
        options = {"max_restarts": 0, "max_concurrency": _CONCURRENCY, "scheduling_strategy": "SPREAD"}
        return self._ray.remote(**options, **self._resources)(Actor).remote()

    def _load(self, actors: Mapping[int, Any]) -> None:
        """Wait until holders have a place and their models.

        Raises:
            ClusterError: it takes too long, or one dies.
        """
        waiting = {actor.load.remote(self._settings): index for index, actor in actors.items()}
        ready, pending = self._ray.wait(list(waiting), num_returns=len(waiting), timeout=_START)
        for each in ready:
            host = self._result(each, 0)
            if isinstance(host, HolderLostError):
                raise _DiedError(f"a new one died while it loaded its model: {host}.")
            self._hosts[waiting[each]] = host
        if pending:
            free = self._ray.available_resources()
            raise ClusterError(
                f"{len(pending)} of {len(waiting)} processes found no place within {_START:g} s: each takes "
                f"{_in_words(self._resources)}, and the cluster has {free.get('CPU', 0):g} CPUs and "
                f"{free.get('GPU', 0):g} GPUs left; ask for fewer, or add hosts."
            )

    def _result(self, reference: Any, generation: int) -> Any:
        """What a call returned, or how its holder was lost."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayActorError as error:
            return HolderLostError(str(error).partition("\n")[0], generation)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            if isinstance(cause, UnknownQuestionError):
                return cause
            raise cause from (None if isinstance(cause, FocusdocError) else error)

    def _hanging(self, actors: Mapping[int, Any]) -> set[int]:
        """Which of these give no sign of life in time."""
        if not actors:
            return set()
        asked = {actor.is_alive.remote(): index for index, actor in actors.items()}
        _, silent = self._ray.wait(list(asked), num_returns=len(asked), timeout=self._timeout)
        return {asked[each] for each in silent}


def open_cluster(where: int | str, settings: HolderSettings) -> Cluster:
    """The cluster that a setting names.

    Args:
        where: a number of processes on this machine; ``"auto"`` for the Ray cluster that this machine belongs to, or
            the address of one. There, every GPU gets a holder, or else every host.

    Raises:
        ClusterError: Ray is not installed, nobody answers at the address, or there is no place.
        ConfigError: the number is below 1, or the address is one of Ray's client.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray prints a paragraph about a lost process on standard output; it is logged here, and replaced.
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
            os.environ.setdefault("RAY_worker_niceness", "0")  # else every other program goes before the holders
            _start(address="local", num_cpus=count, include_dashboard=False, object_store_memory=256 << 20, **quiet)
        # They share this machine's cores, so a second cluster of this program has a place too.
        return Cluster(RayHolders(count, replace(settings, num_threads=threads), {"num_cpus": 0}))
    if where.startswith("ray://"):
        raise ConfigError(f"{where} is for Ray's client; run on a host of the cluster, with its address or auto.")
    if not ray.is_initialized():
        try:
            if where != "auto":  # Ray would try for minutes
                host, _, port = where.rpartition(":")
                socket.create_connection((host, int(port)), timeout=_ANSWER).close()
            _start(address=where, **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            raise ClusterError(
                f"Nobody answers at the cluster {where} ({str(error).partition(chr(10))[0]}); start it with "
                "`ray start --head`, or give a number of processes on this machine."
            ) from error
    gpus = int(ray.cluster_resources().get("GPU", 0)) if settings.device in ("auto", "cuda") else 0
    hosts = sum(node["Alive"] for node in ray.nodes())
    return Cluster(RayHolders(gpus or hosts, settings, {"num_gpus": 1} if gpus else {"num_cpus": 1}))


def _start(**options: Any) -> None:
    """`ray.init`. On Linux the processes that Ray starts end with the thread that started them, so it has to stay."""
    import ray

    if threading.current_thread() is threading.main_thread():
        ray.init(**options)
        return
    outcome: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def start_and_stay() -> None:
        try:
            ray.init(**options)
        except BaseException as error:
            outcome.put(error)
            return
        outcome.put(None)
        threading.Event().wait()

    threading.Thread(target=start_and_stay, name="focusdoc-ray", daemon=True).start()
    if (error := outcome.get()) is not None:
        raise error


def _in_words(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{count:g} {name.removeprefix('num_').upper()[:-1]}" for name, count in resources.items())


def _timeout() -> float:
    """Seconds without a sign of life.

    Raises:
        ConfigError: the environment variable is not a number of seconds.
    """
    given = os.environ.get(TIMEOUT_VARIABLE, "")
    try:
        seconds = float(given) if given else _TIMEOUT
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise ConfigError(f"{TIMEOUT_VARIABLE} is {given!r}; give a number of seconds, such as 30.")
    return seconds
