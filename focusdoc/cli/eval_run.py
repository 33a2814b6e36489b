"""Running a benchmark in one or several modes, with a progress bar, and printing the results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from focusdoc.cli.display import errors, note, output, show_table
from focusdoc.cli.eval_options import RunOptions, names_in
from focusdoc.cli.loading import EngineOptions
from focusdoc.evaluation.item import NO_READER, ModeSettings, check_modes
from focusdoc.terminal import plain

if TYPE_CHECKING:
    from focusdoc.engine import FocusEngine
    from focusdoc.evaluation.item import Item, Mode
    from focusdoc.evaluation.results import Progress as RunProgress
    from focusdoc.evaluation.results import Results

#: Without a terminal, progress is printed at most this often.
_SECONDS_BETWEEN_LINES = 60.0


def run_items(
    benchmark: str,
    options: RunOptions,
    settings: ModeSettings,
    items_of: Callable[[FocusEngine], Iterable[Item]],
    facts: Mapping[str, Any],
) -> None:
    """Answer the items of a benchmark in every mode of `options`, and print the scores.

    Args:
        items_of: returns the items for an engine, whose tokenizer may be used to measure lengths.
        facts: the settings of the items, for the configuration of the results.
    """
    names = checked_modes(options)
    settings = replace(settings, max_tokens=settings.max_tokens or None, chat=options.chat)
    engine = load_engine(options, settings)
    items = list(items_of(engine))
    from focusdoc.evaluation.modes import make_mode
    from focusdoc.evaluation.retrieval import first_with

    def ask(mode: Mode, item: Item) -> Mapping[str, Any]:
        outcome = mode.answer(item)
        found = {} if outcome.passages is None else {"found": first_with(item.places, outcome.passages)}
        return {"answers": item.answers, "all_classes": item.all_classes, **found, **outcome.to_dict()}

    # All modes are made first, so that mistakes are reported before the first item.
    modes = {name: make_mode(name, engine, settings) for name in names}
    parts = [Part(name, items, partial(ask, mode), {**facts, **mode.facts}) for name, mode in modes.items()]
    modes.clear()  # so that each is freed after its run, with the memory of a long document
    run_parts(benchmark, options, parts)


class Part(NamedTuple):
    """The run of one mode: its jobs, the function that returns a job's row, and its configuration."""

    mode: str
    jobs: Sequence[Any]
    work: Callable[[Any], Mapping[str, Any]]
    facts: Mapping[str, Any]


def checked_modes(options: RunOptions) -> list[str]:
    """The modes of `options`, after checking everything that can be checked without a model."""
    from focusdoc.evaluation.loading import needed
    from focusdoc.evaluation.results import Shard

    needed("pandas", "eval")  # fail now, not after hours
    Shard.parse(options.shard)
    return check_modes(names_in(options.mode))


def run_parts(benchmark: str, options: RunOptions, parts: list[Part]) -> None:
    """Run a benchmark in every mode, and print the scores."""
    from focusdoc.evaluation.results import ResultFolder, Results, Shard, run

    folders = [
        ResultFolder(options.output_folder / part.mode, {"benchmark": benchmark, "mode": part.mode, **part.facts})
        for part in parts
    ]
    parts.reverse()
    for folder in folders:
        part = parts.pop()
        with run_progress(f"{benchmark}, {part.mode}") as show:
            shard = Shard.parse(options.shard)
            run(part.jobs, part.work, folder, shard=shard, resume=options.resume, retry=options.retry, progress=show)
    show_figures([Results.open(folder.path) for folder in folders])


def load_engine(options: RunOptions, settings: ModeSettings) -> FocusEngine:
    """Load the engine for the modes; it has a store only with ``--store``."""
    engine = EngineOptions(
        model=options.model,
        adapter=options.adapter,
        chunk_size=settings.chunk_size,
        device=options.device,
        dtype=options.dtype,
        quote_tokens=options.quote_tokens,
        no_store=True,
        reader="none" if options.reader in (NO_READER, None) else options.reader,
        reader_model=options.reader_model,
    ).load()
    if options.reader == NO_READER:
        from focusdoc.evaluation.retrieval import NoReader

        engine = engine.with_reader(NoReader())
    if options.store is not None:
        from focusdoc.memory.library import open_store

        engine.store = open_store(options.store)
    return engine


@contextmanager
def run_progress(name: str) -> Iterator[Callable[[RunProgress], None]]:
    """Show a bar on a terminal, else a line from time to time; yields the progress callback."""
    start = time.monotonic()
    last_printed = start
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn())
    with Progress(
        *columns, TextColumn("{task.fields[note]}", markup=False), TimeRemainingColumn(), console=errors,
        disable=not errors.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task(name, total=None, note="")

        def show(progress: RunProgress) -> None:
            nonlocal last_printed
            failed = f"{progress.failed} failed" if progress.failed else ""
            about = " ".join(part for part in (plain(progress.task), failed) if part)
            bar.update(task, completed=progress.done, total=progress.total, note=about)
            now = time.monotonic()
            overdue = progress.done == progress.total or now - last_printed > _SECONDS_BETWEEN_LINES
            if overdue and not errors.is_terminal:
                last_printed = now
                line = f"{name}: {progress.done} of {progress.total} after {now - start:.0f} s {about}"
                note(line.rstrip())

        yield show


def show_figures(results: Sequence[Results]) -> None:
    """Print the results of one benchmark with a column for each mode."""
    from focusdoc.evaluation.report import overview

    for section in overview(results):
        if section.title:
            output.print(section.title, style="bold", markup=False)
        show_table(section.header, section.rows, right=section.header[1:])
