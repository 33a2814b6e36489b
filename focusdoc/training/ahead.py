"""Prefetching of training samples in worker processes.

Building a sample takes about 0.1 s of text processing. That is negligible next to a training step on a CPU, but on a
GPU it would take as long as the step itself.
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

#: Most workers next to a GPU, and samples that each prefetches.
_MAX_WORKERS, _PREFETCH = 8, 4


class _Samples(Dataset[TrainingSample]):
    def __init__(self, maker: SampleMaker) -> None:
        self.maker = maker

    def __getitem__(self, number: int) -> TrainingSample:
        return self.maker.make(number)


def default_workers(device: torch.device) -> int:
    """The default number of workers; 0 on a CPU, where they would compete with the training step."""
    return 0 if device.type == "cpu" else min(_MAX_WORKERS, max(1, num_cpus() - 1))


def prefetch_samples(samples: SampleMaker, numbers: Sequence[int], workers: int) -> Iterator[None]:
    """Yield once for each of `numbers`, as soon as `samples` has that sample cached.

    Without `workers`, `samples` builds each sample when it is drawn.
    """
    if workers == 0:
        yield from (None for _ in numbers)
        return
    context: Any = "spawn"
    if "forkserver" in multiprocessing.get_all_start_methods():
        # A fork of a process that uses a GPU is unsafe, and locks held by its threads stay locked. So workers are
        # forked from a fork server, which imports their modules once instead of once for each worker.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["__main__", __name__, type(samples.tokenizer).__module__])
    loader: DataLoader[Any] = DataLoader(
        _Samples(samples),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        prefetch_factor=_PREFETCH,
        multiprocessing_context=context,
        worker_init_fn=_ignore_interrupts,
    )
    for sample in loader:
        samples.cache_sample(sample)
        yield


def _ignore_interrupts(_: int) -> None:
    """Ignore Ctrl-C, which the terminal sends to every process; the training process decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
