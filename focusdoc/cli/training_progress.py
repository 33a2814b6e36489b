"""Progress display of a training run, and stopping it with Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from focusdoc.cli.display import errors

if TYPE_CHECKING:
    from focusdoc.training.trainer import StepReport

#: The decay of the moving average of the losses.
_SMOOTHING = 0.9


class TrainingProgress:
    """A progress bar with the loss of each objective, the speed and the time left; lines without a terminal.

    Args:
        steps: of the whole run.
        shown: whether to print anything.
    """

    def __init__(self, steps: int, *, shown: bool = True) -> None:
        self._shown = shown
        self._losses: dict[str, float] = {}
        columns = (
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
        )
        self._bar = Progress(*columns, console=errors, disable=not (shown and errors.is_terminal))
        self._task = self._bar.add_task("", total=steps)

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def note(self, sentence: str, *, done: int) -> None:
        """Print a sentence after `done` steps."""
        if self._shown:
            self._bar.update(self._task, completed=done)
            errors.print(sentence, markup=False, soft_wrap=True)

    def show(self, report: StepReport) -> None:
        """Show one more step, and the evaluation after it."""
        if not self._shown:
            return
        for name, loss in report.losses.items():
            previous = self._losses.get(name, loss)
            self._losses[name] = _SMOOTHING * previous + (1 - _SMOOTHING) * loss
        losses = self._losses if errors.is_terminal else report.losses
        listed = "  ".join(f"{name} {loss:.2f}" for name, loss in sorted(losses.items()))
        line = f"{report.tokens / report.seconds:,.0f} tokens/s  {listed}"
        self._bar.update(self._task, completed=report.step, description=line)
        if not errors.is_terminal:
            errors.print(f"step {report.step:,}  {line}", markup=False, soft_wrap=True)
        if report.held_out:
            results = "  ".join(f"{name} {value:.2f}" for name, value in report.held_out.items())
            errors.print(f"step {report.step:,}  held out: {results}", markup=False, soft_wrap=True)


@contextmanager
def stop_on_interrupt() -> Iterator[threading.Event]:
    """Inside the block the first Ctrl-C sets the yielded event; the second one interrupts as usual."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only it may set signal handlers
        yield stopped
        return
    previous = signal.getsignal(signal.SIGINT)

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if stopped.is_set():
            signal.default_int_handler(number, frame)
        stopped.set()
        errors.print("Stopping after this step; Ctrl-C once more loses it.", style="yellow")

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, previous)
