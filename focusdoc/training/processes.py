"""Data-parallel training in one process, or in several that `launch`, ``accelerate launch`` or ``torchrun`` started.

A training step is many small operations, which threads parallelize badly; processes split the samples instead. Each
process draws its own samples and computes their gradients; the gradients are averaged, so that all processes make the
same step. Only the main process writes.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import IO, TYPE_CHECKING, TypeVar

from focusdoc.container import num_cpus
from focusdoc.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Seconds between two polls, and that the main process has to exit after another has failed.
_POLL, _GRACE = 0.2, 10.0

_Process = subprocess.Popen[bytes]
ItemT = TypeVar("ItemT")


def under_launcher() -> bool:
    """Whether `launch`, ``torchrun`` or ``accelerate launch`` started this process."""
    return "WORLD_SIZE" in os.environ


def launch(count: int, command: Sequence[str]) -> int:
    """Run `command` in `count` processes and return the exit status of the main one.

    They share the cores, and `Processes.launched` connects them. The main process inherits the output; of the others,
    stderr is reported if they fail. Ctrl-C is forwarded to all.

    Raises:
        ConfigError: `count` is below 1.
        TrainingError: another process failed; the message has its last line of stderr.
    """
    if count < 1:
        raise ConfigError(f"processes is {count}; it must be 1 or above.")
    with ExitStack() as stack:
        stderrs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(count - 1)]
        started: list[_Process] = []
        stack.callback(_stop, started)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # What torch.distributed reads, the same for all processes.
        shared = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, num_cpus() // count)),
        }
        for index in range(count):
            process = subprocess.Popen(
                list(command),
                env={**os.environ, **shared, "RANK": str(index), "LOCAL_RANK": str(index)},
                stdout=subprocess.DEVNULL if index else None,
                stderr=stderrs[index - 1] if index else None,
                # Its own session, or it would get Ctrl-C twice: from the terminal and from here.
                start_new_session=True,
            )
            started.append(process)
        stack.enter_context(_forward_signals(started))
        return _wait(started, stderrs)


def _wait(started: Sequence[_Process], stderrs: Sequence[IO[bytes]]) -> int:
    """Wait until the main process has exited, or another has failed and the main one does not exit in time."""
    main, *others = started
    while main.poll() is None and not any(other.poll() for other in others):
        time.sleep(_POLL)
    try:
        status = main.wait(_GRACE)
    except subprocess.TimeoutExpired:
        status = None
    for index, other in enumerate(others):
        # An error common to all was reported by the main process, but not that a signal (below 0) ended another.
        if (code := other.poll()) and (status is None or code < 0 < status):
            stderrs[index].seek(0)
            last = stderrs[index].read().decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            raise TrainingError(
                f"Process {index + 2} of {len(started)} exited with status {code}: {last[0]}. The last "
                "checkpoint is kept; if memory was short, resume with fewer processes."
            )
    return status or 0


def _stop(started: Sequence[_Process]) -> None:
    """Kill the processes that are still running; after success, wait for them to exit first."""
    for process in started:
        if started[0].poll() == 0:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
        process.kill()
        process.wait()


@contextmanager
def _forward_signals(started: Sequence[_Process]) -> Iterator[None]:
    """Inside the block, forward SIGINT and SIGTERM to the started processes instead of ending this one."""

    def forward(number: int, frame: FrameType | None) -> None:
        for process in started:
            process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Processes:
    """The processes of a run; with one, every method is a no-op, so results are bit-identical.

    `index` is the rank of this process, 0 for the main one, and `device` the one for communication.
    """

    def __init__(self, index: int = 0, count: int = 1, device: torch.device | None = None) -> None:
        self.index, self.count, self.device = index, count, device

    @classmethod
    def launched(cls, device: torch.device) -> Processes:
        """Connect to the processes that the launcher started, by its environment variables."""
        if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
            return cls()
        from accelerate import PartialState

        state = PartialState(cpu=device.type == "cpu")
        return cls(state.process_index, state.num_processes, device)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files."""
        return self.index == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes."""
        if self.count == 1:
            return
        import torch
        from accelerate.utils import reduce

        for parameter in parameters:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            # Offloaded gradients are on the CPU, but GPUs communicate among themselves.
            parameter.grad = reduce(gradient.to(self.device), reduction="mean").to(parameter.device)

    def gather(self, items: Sequence[ItemT]) -> list[ItemT]:
        """The items of all processes, in the order of their ranks."""
        if self.count == 1:
            return list(items)
        from accelerate.utils import gather_object

        gathered: list[ItemT] = gather_object(list(items))
        return gathered

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process; the same in every process."""
        return any(self.gather([flag]))

    def wait(self) -> None:
        """Wait for all processes (a barrier)."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Settings that change how a run executes, not what it learns.

    `workers` processes prefetch samples (None: some with a GPU, none with a CPU). With `offload` the trained weights
    and the optimizer stay on the CPU. With `tensorboard` the run's folder has ``tensorboard/`` too.
    """

    processes: Processes = field(default_factory=Processes)
    workers: int | None = None
    offload: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"workers is {self.workers}; it must be 0 or above.")
