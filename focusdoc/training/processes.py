"""The processes of a run: this one alone, or as many as ``accelerate launch`` (or ``torchrun``) started.

Every process draws samples of its own and computes their gradients; the gradients are averaged, so that all processes
make the same step. Only the main one writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import nn

ItemT = TypeVar("ItemT")


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
