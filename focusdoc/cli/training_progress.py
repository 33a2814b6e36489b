"""Progress display of a training run."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from focusdoc.cli.display import errors, note

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
            note(sentence)

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
            note(f"step {report.step:,}  {line}")
        if report.held_out:
            results = "  ".join(f"{name} {value:.2f}" for name, value in report.held_out.items())
            note(f"step {report.step:,}  held out: {results}")
