"""The processes of a run: this one alone, or as many as `launch` or ``accelerate launch`` (or ``torchrun``) started.

A training step is many small operations, and threads divide each of them badly; processes divide the samples instead.
Every process draws samples of its own and computes their gradients; the gradients are averaged, so that all processes
make the same step. Only the main one writes.
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

#: Seconds between two looks at the processes, and that the main one has to end by itself once another has failed.
_LOOK, _GRACE = 0.2, 10.0

_Process = subprocess.Popen[bytes]
ItemT = TypeVar("ItemT")


def under_launcher() -> bool:
    """Whether this process is one of several: of `launch`, ``torchrun`` or ``accelerate launch``."""
    return "WORLD_SIZE" in os.environ


def launch(count: int, command: Sequence[str]) -> int:
    """Run `command` as a run of `count` processes, and wait for them; `Processes.launched` is what they are inside.

    They share the cores. The main one has this process's output, the others are heard only where they fail. Ctrl-C
    reaches all of them.

    Returns:
        The exit status of the main process.

    Raises:
        ConfigError: `count` is below 1.
        TrainingError: another one failed; the message ends with what it said last.
    """
    if count < 1:
        raise ConfigError(f"processes is {count}; it must be 1 or above.")
    with ExitStack() as stack:
        said = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(count - 1)]
        started: list[_Process] = []
        stack.callback(_end, started)
        shared = _shared(count)
        for index in range(count):
            process = subprocess.Popen(
                list(command),
                env={**os.environ, **shared, "RANK": str(index), "LOCAL_RANK": str(index)},
                stdout=subprocess.DEVNULL if index else None,
                stderr=said[index - 1] if index else None,
                # A session of its own, or Ctrl-C would reach it twice: from the terminal and from here.
                start_new_session=True,
            )
            started.append(process)
        stack.enter_context(_passing_on(started))
        return _wait(started, said)


def _shared(count: int) -> dict[str, str]:
    """What the environments have in common, as ``torch.distributed`` reads it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = os.environ.get("OMP_NUM_THREADS") or max(1, num_cpus() // count)
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": str(threads),
    }


def _wait(started: Sequence[_Process], said: Sequence[IO[bytes]]) -> int:
    """Until the main process has ended, or another has failed and the main one does not end for that."""
    main, *others = started
    while main.poll() is None and not any(other.poll() for other in others):
        time.sleep(_LOOK)
    try:
        status = main.wait(_GRACE)
    except subprocess.TimeoutExpired:
        status = None
    for index, other in enumerate(others):
        # Where all stumble over the same, the main one has told it. A signal (below 0) is nothing that it knows of.
        if (found := other.poll()) and (status is None or found < 0 < status):
            said[index].seek(0)
            last = said[index].read().decode(errors="replace").strip().splitlines()[-1:] or ["nothing"]
            raise TrainingError(
                f"Process {index + 2} of {len(started)} ended with status {found} and said: {last[0]}. The last "
                "checkpoint is kept; if memory was short, go on with fewer processes."
            )
    return status or 0


def _end(started: Sequence[_Process]) -> None:
    """Leave none behind; where all went well they end by themselves."""
    for process in started:
        if started[0].poll() == 0:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
        process.kill()
        process.wait()


@contextmanager
def _passing_on(started: Sequence[_Process]) -> Iterator[None]:
    """Inside the block, what would end this process reaches the others instead, and this one waits for them."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in started:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Processes:
    """A run's processes; with one, every method does nothing, so that nothing changes in any bit.

    Attributes:
        index: of this process, 0 for the main one.
        count: how many there are.
        device: where this process meets the others.
    """

    def __init__(self, index: int = 0, count: int = 1, device: torch.device | None = None) -> None:
        self.index = index
        self.count = count
        self.device = device

    @classmethod
    def launched(cls, device: torch.device) -> Processes:
        """Those that the launcher started, as its environment variables tell; connects to them."""
        if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
            return cls()
        from accelerate import PartialState

        state = PartialState(cpu=device.type == "cpu")
        return cls(state.process_index, state.num_processes, device)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.index == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes."""
        if self.count == 1:
            return
        import torch
        from accelerate.utils import reduce

        for parameter in parameters:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            # Offloaded gradients lie on the CPU, where GPUs do not meet.
            parameter.grad = reduce(gradient.to(self.device), reduction="mean").to(parameter.device)

    def gather(self, items: Sequence[ItemT]) -> list[ItemT]:
        """The items of all processes, in the order of the processes."""
        if self.count == 1:
            return list(items)
        from accelerate.utils import gather_object

        gathered: list[ItemT] = gather_object(list(items))
        return gathered

    def any(self, flag: bool) -> bool:
        """Whether `flag` holds in any process; every process gets the same answer."""
        return any(self.gather([flag]))

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Where a run works, and what it shows while it does; what it learns does not depend on it.

    Attributes:
        processes: those of the run.
        workers: processes that make samples ahead; None for some beside a GPU, and none beside a CPU.
        offload: keep the trained weights and the optimizer on the CPU, whatever device the base model is on.
        tensorboard: write ``tensorboard/`` in the run's folder too.
    """

    processes: Processes = field(default_factory=Processes)
    workers: int | None = None
    offload: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"workers is {self.workers}; it must be 0 or above.")
