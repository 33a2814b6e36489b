"""Cancelling a reading from another thread."""

from __future__ import annotations

import threading

from focusdoc.errors import FocusdocError
from focusdoc.memory.reading import Progress


class ReadingCancelledError(FocusdocError):
    """Reading was cancelled; never leaves this package."""


def stopped_by(cancel: threading.Event | None) -> Progress | None:
    """A reading's progress callback that ends it once `cancel` is set; None for the usual progress bar."""
    if cancel is None:
        return None

    def progress(_: int, __: int) -> None:
        if cancel.is_set():
            raise ReadingCancelledError("cancelled")

    return progress
