"""Readings from several threads: one at a time for each text, and each can be cancelled, also while it waits."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager

from focusdoc.errors import FocusdocError
from focusdoc.memory.reading import Progress

#: How often a thread that waits for its turn looks whether it was cancelled, in seconds.
_LOOK = 0.05


class ReadingCancelledError(FocusdocError):
    """Reading was cancelled; never leaves this package."""


def stopped_by(cancel: threading.Event | None, progress: Progress | None = None) -> Progress | None:
    """A reading's progress callback that ends it once `cancel` is set, and calls `progress` until then; None for the
    usual progress bar, where there are neither.
    """
    if cancel is None:
        return progress

    def show(done: int, total: int) -> None:
        if cancel.is_set():
            raise ReadingCancelledError("cancelled")
        if progress is not None:
            progress(done, total)

    return show


class Turns:
    """Takes turns over texts: of the threads with one text, one goes on; threads with another do not wait for it."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._changed = threading.Condition()

    @contextmanager
    def of(self, text: str, cancel: threading.Event | None = None) -> Generator[None, None, None]:
        """Hold the turn of `text`.

        Raises:
            ReadingCancelledError: `cancel` was set before the turn came.
        """
        with self._changed:
            while text in self._taken:
                if cancel is not None and cancel.is_set():
                    raise ReadingCancelledError("cancelled")
                self._changed.wait(None if cancel is None else _LOOK)
            self._taken.add(text)
        try:
            yield
        finally:
            with self._changed:
                self._taken.remove(text)
                self._changed.notify_all()
