"""Running a benchmark in one or several modes, with a progress bar, and telling the figures at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from focusdoc.cli.display import errors, output
from focusdoc.cli.eval_options import RunOptions, names_in
from focusdoc.cli.loading import EngineOptions
from focusdoc.errors import EvaluationError
from focusdoc.evaluation.settings import NO_READER, check_modes
from focusdoc.terminal import plain

if TYPE_CHECKING:
    from focusdoc.documents import Document
    from focusdoc.engine import FocusEngine
    from focusdoc.evaluation.item import Item
    from focusdoc.evaluation.runner import Progress as RunProgress
    from focusdoc.evaluation.summary import Figure, Results

#: Without a terminal, a line says how far a run is, at most this often.
_SECONDS_BETWEEN_LINES = 60.0


def run_items(
    benchmark: str,
    options: RunOptions,
    items_of: Callable[[FocusEngine], Sequence[Item]],
    facts: Mapping[str, Any],
) -> None:
    """Ask the items of a benchmark in every mode of `options`, and print the scores.

    Args:
        items_of: the items, for a model whose tokenizer may measure them.
        facts: what shapes the items, for the configuration of the results.
    """
    from focusdoc.evaluation.engines import ModeSettings
    from focusdoc.evaluation.modes import make_mode
    from focusdoc.evaluation.results import ResultFolder, Shard
    from focusdoc.evaluation.retrieval import first_with
    from focusdoc.evaluation.runner import run
    from focusdoc.evaluation.summary import Results

    names = check_modes(names_in(options.mode))
    shard = Shard.parse(options.shard)
    settings = ModeSettings(
        chunk_size=options.chunk_size,
        local_window=options.local_window,
        max_tokens=options.max_tokens or None,
        chat=options.chat,
        passages=options.passages,
        window=options.window,
    )
    engine = load_engine(options)
    items = items_of(engine)
    # Whatever is wrong with a mode or its folder is found out before the first item.
    modes = {name: make_mode(name, engine, settings) for name in names}
    folders = {
        name: ResultFolder(
            options.output_folder / name, {"benchmark": benchmark, "mode": name, **facts, **mode.describe()}
        )
        for name, mode in modes.items()
    }
    for name in names:
        mode = modes.pop(name)  # let go when its turn is over: it may hold the memory of a long document

        def work(item: Item, mode: Any = mode) -> Mapping[str, Any]:
            outcome = mode.answer(item)
            found = {} if outcome.passages is None else {"found": first_with(item.places, outcome.passages)}
            return {"answers": item.answers, "all_classes": item.all_classes, **found, **outcome.to_dict()}

        with run_progress(f"{benchmark}, {name}") as show:
            run(items, work, folders[name], shard=shard, resume=options.resume, retry=options.retry, progress=show)
    show_figures([Results.open(folder.path) for folder in folders.values()])


def run_perplexity(
    options: RunOptions,
    texts: Iterable[Document],
    lengths: Sequence[int] | None,
    *,
    chunk_sizes: Sequence[int],
    targets: int,
    limit: int | None,
) -> None:
    """Take the perplexity of texts in every mode of `options`, and print it.

    Args:
        lengths: tokens; None for those of the paper.
        chunk_sizes: to compare; none for the adapter's own.
    """
    from focusdoc.evaluation.engines import ModeSettings
    from focusdoc.evaluation.perplexity import LENGTHS, PerplexityMode, make_jobs
    from focusdoc.evaluation.results import ResultFolder, Shard
    from focusdoc.evaluation.runner import run
    from focusdoc.evaluation.summary import Results

    names = check_modes(names_in(options.mode))
    shard = Shard.parse(options.shard)
    settings = ModeSettings(local_window=options.local_window)
    engine = load_engine(options)
    modes = {name: PerplexityMode(name, engine, settings) for name in names}
    documents = list(texts) if len(names) > 1 else texts
    work = []
    for name, mode in modes.items():
        possible = mode.lengths(lengths or LENGTHS)
        if not possible:
            limits = f"{engine.base.name} has {engine.base.context_length:,} positions"
            raise EvaluationError(f"No length fits the mode {name}: {limits}; give shorter --lengths.")
        jobs = make_jobs(
            engine, documents, possible, chunk_sizes=mode.chunk_sizes(chunk_sizes), targets=targets, limit=limit
        )
        config = {"benchmark": "perplexity", "mode": name, "targets": targets, **mode.describe()}
        work.append((name, mode, jobs, ResultFolder(options.output_folder / name, config)))
    for name, mode, jobs, folder in work:
        with run_progress(f"perplexity, {name}") as show:
            run(jobs, mode.work, folder, shard=shard, resume=options.resume, retry=options.retry, progress=show)
    show_figures([Results.open(folder.path) for *_, folder in work])


def load_engine(options: RunOptions) -> FocusEngine:
    """The engine that the modes are made from; without a store, unless a folder for one was named."""
    engine = EngineOptions(
        model=options.model,
        adapter=options.adapter,
        chunk_size=options.chunk_size,
        paper=False,
        device=options.device,
        dtype=options.dtype,
        quote_tokens=options.quote_tokens,
        store=False,
        reader=None if options.reader == NO_READER else options.reader,
        reader_model=options.reader_model,
    ).load()
    if options.reader == NO_READER:
        from focusdoc.evaluation.reading_modes import NoReader

        engine = engine.with_reader(NoReader())
    if options.store is not None:
        from focusdoc.memory.library import open_store

        engine.store = open_store(options.store)
    return engine


@contextmanager
def run_progress(name: str) -> Iterator[Callable[[RunProgress], None]]:
    """A bar with the time left on a terminal, else a line from time to time; yields what to call."""
    begun = time.monotonic()
    told = begun
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn())
    with Progress(
        *columns, TextColumn("{task.fields[note]}", markup=False), TimeRemainingColumn(), console=errors,
        disable=not errors.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task(name, total=None, note="")

        def show(progress: RunProgress) -> None:
            nonlocal told
            failed = f"{progress.failed} failed" if progress.failed else ""
            note = " ".join(part for part in (plain(progress.task), failed) if part)
            bar.update(task, completed=progress.done, total=progress.total, note=note)
            now = time.monotonic()
            if not errors.is_terminal and (progress.done == progress.total or now - told > _SECONDS_BETWEEN_LINES):
                told = now
                line = f"{name}: {progress.done} of {progress.total} after {now - begun:.0f} s {note}"
                errors.print(line.rstrip(), markup=False, soft_wrap=True)

        yield show


def show_figures(results: Sequence[Results]) -> None:
    """Print a table: tasks (and lengths, where there are any) against modes, or those of the report."""
    if results[0].benchmark == "natural":
        from focusdoc.evaluation.natural_section import natural_sections

        for section in natural_sections(results):
            output.print(section.title, style="bold", markup=False)
            _show_table(section.header, section.rows)
        return
    perplexities = results[0].benchmark == "perplexity"
    names = ("length", "chunk_size") if perplexities else ("task", "length")
    figures = [one.by(*names) for one in results]
    rows = sorted({key for of_mode in figures for key in of_mode}, key=lambda key: tuple(map(_sortable, key)))
    lines = []
    for key in rows:
        cells = [of_mode.get(key) for of_mode in figures]
        values = ["" if cell is None or cell.value is None else f"{cell.value:.2f}" for cell in cells]
        counts = ", ".join(dict.fromkeys(map(_count, filter(None, cells))))
        label = " ".join(f"{part:,}" if isinstance(part, int) else str(part) for part in key if part is not None)
        lines.append([label, *values, counts])
    first = " ".join(name.replace("_", " ") for name in names)
    _show_table([first, *(one.mode for one in results), "items"], lines)


def _show_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False)
    for place, cells in enumerate(zip(header, *rows, strict=True)):
        # Without a terminal, no cell is broken into lines.
        least = None if output.is_terminal else max(map(len, cells))
        table.add_column(plain(cells[0]), justify="right" if place else "left", min_width=least)
    for row in rows:
        table.add_row(*map(plain, row))
    output.print(table, soft_wrap=not output.is_terminal)


def _count(figure: Figure) -> str:
    return f"{figure.items:,}" + (f" ({figure.failed:,} failed)" if figure.failed else "")


def _sortable(part: Any) -> tuple[bool, float, str]:
    return part is None, part if isinstance(part, int | float) else 0.0, str(part)
