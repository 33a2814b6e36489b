"""When reading ended and when each token came, seen through the engine's public hooks."""

from __future__ import annotations

import itertools
import statistics
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class ReadingClock:
    """A `progress` of `FocusEngine.read`: the time when the last token was read, which is before it is stored."""

    def __init__(self) -> None:
        self.last = time.perf_counter()

    def __call__(self, done: int, total: int) -> None:
        """Note the time."""
        self.last = time.perf_counter()


class StepClock:
    """A grammar that allows everything, is never complete, and notes when each token is chosen."""

    complete = False

    def __init__(self) -> None:
        self._times: list[float] = []

    def start(self) -> StepClock:
        """See `focusdoc.config.Grammar`."""
        return self

    def mask(self, scores: Tensor) -> Tensor:
        """See `focusdoc.config.GrammarState`; the logits are there when it is called."""
        self._times.append(time.perf_counter())
        return scores

    def accept(self, token: int) -> None:
        """See `focusdoc.config.GrammarState`."""

    @property
    def steps(self) -> list[float]:
        """Seconds from each token to the next."""
        return [later - earlier for earlier, later in itertools.pairwise(self._times)]


def median(seconds: list[float]) -> float | None:
    """The median; None where nothing was timed."""
    return statistics.median(seconds) if seconds else None
