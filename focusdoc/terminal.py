"""Terminal output: text without control characters, readable numbers, and a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: C0 and C1 control characters and DEL, except line feed and tab.
_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def plain(text: str) -> str:
    """The text without terminal control characters; lone surrogates, which cannot be shown, become ``?``."""
    return text.translate(_CONTROLS).encode("utf-8", "replace").decode("utf-8")


def in_bytes(count: float) -> str:
    """A number of bytes with its unit, in powers of 1,000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit in ("bytes", "kB") or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def in_time(seconds: float) -> str:
    """A rounded duration with its unit."""
    if seconds < 1:
        return "1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


@contextmanager
def progress_bar(what: str, unit: str) -> Iterator[Callable[[float, int], None]]:
    """A progress bar on standard error, if that is a terminal; yields the function to call with (done, total).

    Shows progress, rate and remaining time; removed when the block ends.

    Args:
        what: the task, such as "Reading book.txt".
        unit: what is counted, such as "tokens".
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Count(ProgressColumn):
        def render(self, task: Task) -> Text:
            if task.total is None:
                return Text("starting", style="dim")
            speed = "" if task.speed is None or task.speed < 1 else f", {task.speed:,.0f} {unit}/s"
            return Text(f"{task.completed:,.0f} of {task.total:,.0f} {unit}{speed}")

    console = Console(stderr=True, highlight=False)
    title = TextColumn("{task.description}", markup=False)
    columns = (title, BarColumn(bar_width=24), Count(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(plain(what), total=None)

        def update(done: float, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield update
