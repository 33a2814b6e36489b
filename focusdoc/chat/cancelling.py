"""Reading in several threads: one thread at a time per text, cancellable even while waiting."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager

from focusdoc.errors import FocusdocError
from focusdoc.memory.reading import Progress

#: Seconds between a waiting thread's checks for cancellation.
_POLL = 0.05


class ReadingCancelledError(FocusdocError):
    """Reading was cancelled; internal to this package."""


def stopped_by(cancel: threading.Event | None, progress: Progress | None = None) -> Progress | None:
    """Wrap a progress callback so that it raises `ReadingCancelledError` once `cancel` is set.

    Without `cancel` it is returned as it is; None means the default progress bar.
    """
    if cancel is None:
        return progress

    def show(done: int, total: int) -> None:
        if cancel.is_set():
            raise ReadingCancelledError("cancelled")
        if progress is not None:
            progress(done, total)

    return show


class TextLocks:
    """A lock for each text: threads with the same text wait for each other, others do not."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._changed = threading.Condition()

    @contextmanager
    def of(self, text: str, cancel: threading.Event | None = None) -> Generator[None, None, None]:
        """Hold the lock of `text`; ReadingCancelledError if `cancel` was set while waiting."""
        with self._changed:
            while text in self._taken:
                if cancel is not None and cancel.is_set():
                    raise ReadingCancelledError("cancelled")
                self._changed.wait(None if cancel is None else _POLL)
            self._taken.add(text)
        try:
            yield
        finally:
            with self._changed:
                self._taken.remove(text)
                self._changed.notify_all()
