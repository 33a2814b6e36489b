"""Running a benchmark in one or several modes, with a progress bar, and telling the figures at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from focusdoc.cli.display import errors, output
from focusdoc.cli.eval_options import RunOptions, names_in
from focusdoc.cli.loading import EngineOptions
from focusdoc.errors import EvaluationError
from focusdoc.evaluation.settings import NO_READER, ModeSettings, check_modes
from focusdoc.terminal import plain

if TYPE_CHECKING:
    from focusdoc.documents import Document
    from focusdoc.engine import FocusEngine
    from focusdoc.evaluation.item import Item, Mode
    from focusdoc.evaluation.runner import Progress as RunProgress
    from focusdoc.evaluation.summary import Results

#: Without a terminal, a line says how far a run is, at most this often.
_SECONDS_BETWEEN_LINES = 60.0


def run_items(
    benchmark: str,
    options: RunOptions,
    settings: ModeSettings,
    items_of: Callable[[FocusEngine], Iterable[Item]],
    facts: Mapping[str, Any],
) -> None:
    """Ask the items of a benchmark in every mode of `options`, and print the scores.

    Args:
        items_of: the items, for a model whose tokenizer may measure them.
        facts: what shapes the items, for the configuration of the results.
    """
    names = _modes(options)
    settings = replace(settings, max_tokens=settings.max_tokens or None, chat=options.chat)
    engine = load_engine(options, settings)
    items = list(items_of(engine))
    from focusdoc.evaluation.modes import make_mode
    from focusdoc.evaluation.retrieval import first_with

    def ask(mode: Mode, item: Item) -> Mapping[str, Any]:
        outcome = mode.answer(item)
        found = {} if outcome.passages is None else {"found": first_with(item.places, outcome.passages)}
        return {"answers": item.answers, "all_classes": item.all_classes, **found, **outcome.to_dict()}

    # Whatever is wrong with a mode is found out before the first item.
    modes = {name: make_mode(name, engine, settings) for name in names}
    parts = [_Part(name, items, partial(ask, mode), {**facts, **mode.describe()}) for name, mode in modes.items()]
    modes.clear()  # each is let go when its turn is over: it may hold the memory of a long document
    _run(benchmark, options, parts)


def run_perplexity(
    options: RunOptions,
    settings: ModeSettings,
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
    names = _modes(options)
    engine = load_engine(options, settings)
    from focusdoc.evaluation.perplexity import LENGTHS, PerplexityMode, make_jobs

    modes = {name: PerplexityMode(name, engine, settings) for name in names}
    documents = list(texts) if len(names) > 1 else texts
    parts = []
    for name, mode in modes.items():
        possible = mode.lengths(lengths or LENGTHS)
        if not possible:
            limits = f"{engine.base.name} has {engine.base.context_length:,} positions"
            raise EvaluationError(f"No length fits the mode {name}: {limits}; give shorter --lengths.")
        jobs = make_jobs(
            engine, documents, possible, chunk_sizes=mode.chunk_sizes(chunk_sizes), targets=targets, limit=limit
        )
        parts.append(_Part(name, jobs, mode.work, {"targets": targets, **mode.describe()}))
    _run("perplexity", options, parts)


class _Part(NamedTuple):
    """What is done in one mode: each of the jobs, what makes a row of one, and what shapes the rows."""

    mode: str
    jobs: Sequence[Any]
    work: Callable[[Any], Mapping[str, Any]]
    facts: Mapping[str, Any]


def _modes(options: RunOptions) -> list[str]:
    """The modes asked for; whatever else can be wrong without a model is refused here, too."""
    from focusdoc.evaluation.needed import needed
    from focusdoc.evaluation.results import Shard

    needed("pandas", "eval")  # missed now, not after hours
    Shard.parse(options.shard)
    return check_modes(names_in(options.mode))


def _run(benchmark: str, options: RunOptions, parts: list[_Part]) -> None:
    from focusdoc.evaluation.results import ResultFolder, Shard
    from focusdoc.evaluation.runner import run
    from focusdoc.evaluation.summary import Results

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
    """The engine that the modes are made from; without a store, unless a folder for one was named."""
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
    """Print the figures of one benchmark, mode beside mode."""
    from focusdoc.evaluation.report import overview

    for section in overview(results):
        if section.title:
            output.print(section.title, style="bold", markup=False)
        table = Table(box=None, pad_edge=False)
        for place, cells in enumerate(zip(section.header, *section.rows, strict=True)):
            # Without a terminal, no cell is broken into lines.
            least = None if output.is_terminal else max(map(len, cells))
            table.add_column(plain(cells[0]), justify="right" if place else "left", min_width=least)
        for row in section.rows:
            table.add_row(*map(plain, row))
        output.print(table, soft_wrap=not output.is_terminal)
