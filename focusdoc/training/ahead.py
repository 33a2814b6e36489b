"""Samples made ahead of their use, in processes beside the run.

To make a sample takes a tenth of a second of text work. Beside a CPU that trains for seconds that is nothing; a GPU
would wait for it as long as it computes.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from focusdoc.container import num_cpus
from focusdoc.training.data import SampleMaker, TrainingSample

#: Processes beside a GPU, at most, and how many samples each makes ahead.
_MOST_WORKERS, _AHEAD = 8, 4


class _Samples(Dataset[TrainingSample]):
    def __init__(self, maker: SampleMaker) -> None:
        self.maker = maker

    def __getitem__(self, number: int) -> TrainingSample:
        return self.maker.make(number)


def usual_workers(device: torch.device) -> int:
    """How many processes make samples where nobody says: none beside a CPU, which they would take time from."""
    return 0 if device.type == "cpu" else min(_MOST_WORKERS, max(1, num_cpus() - 1))


def making_ahead(samples: SampleMaker, numbers: Sequence[int], workers: int) -> Iterator[None]:
    """Yields when `samples` holds the first of `numbers`, then the second, and so on.

    Args:
        workers: processes; with 0, `samples` makes each sample when it is drawn, and there is nothing to wait for.
    """
    if workers == 0:
        yield from (None for _ in numbers)
        return
    loader: DataLoader[Any] = DataLoader(
        _Samples(samples),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        prefetch_factor=_AHEAD,
        multiprocessing_context=_context(samples),
        worker_init_fn=_leave_interrupts,
    )
    for sample in loader:
        samples.hold(sample)
        yield


def _context(samples: SampleMaker) -> Any:
    """How the processes are started.

    A fork of a process that uses a GPU must not touch it, and locks of its threads stay locked, so they are forked from
    a fresh process. It imports what they need once; each would take seconds for it, and one starts after the other.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__, type(samples.tokenizer).__module__])
    return context


def _leave_interrupts(_: int) -> None:
    """Ctrl-C reaches every process of a terminal; it is the run's to say when to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
