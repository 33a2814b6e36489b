"""``focusdoc eval`` and ``report``: run the paper's benchmarks, ours and baselines on the same base model."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from focusdoc.cli import eval_options as given
from focusdoc.cli import options
from focusdoc.cli.dataclass_options import dataclass_options, option
from focusdoc.cli.display import errors, output, say
from focusdoc.cli.eval_options import RunOptions, depths_in, lengths_in, names_in, share_in
from focusdoc.cli.eval_run import Part, checked_modes, load_engine, run_items, run_parts, show_figures
from focusdoc.documents import Document
from focusdoc.errors import EvaluationError
from focusdoc.evaluation.item import ModeSettings

evaluate = typer.Typer(no_args_is_help=True, help="Run the paper's benchmarks, for ours and for baselines.")

_WHAT = "Benchmark"


@evaluate.command(epilog="For example: focusdoc eval longbench --data LongBench --tasks qasper --output runs/longbench")
@dataclass_options(local_window=3500, max_tokens=15_500)  # the paper's values
def longbench(
    data: given.Data = None,
    tasks: given.Tasks = None,
    limit: given.Limit = None,
    order: given.Order = "paper",
    *,
    run: RunOptions,
    settings: ModeSettings,
) -> None:
    """LongBench: the 15 tasks of the paper's Table 6 from the official files."""
    given.check_order(order)
    from focusdoc.evaluation.official import LONGBENCH_TASKS, longbench_items

    # Loaded before the model, to report mistakes in the data at once.
    items = list(longbench_items(data, names_in(tasks) or LONGBENCH_TASKS, limit=limit, order=order))
    run_items("longbench", run, settings, lambda engine: items, {"order": order})


@evaluate.command(
    epilog="For example: focusdoc eval infinitebench --tasks kv_retrieval --lengths 128K --output runs/kv"
)
@dataclass_options()
def infinitebench(
    data: given.Data = None,
    tasks: given.Tasks = None,
    limit: given.Limit = None,
    lengths: given.Lengths = None,
    seed: given.Seed = 0,
    order: given.Order = "paper",
    templates: Annotated[
        str, option("The set of templates in prompts.json.", _WHAT, "NAME")
    ] = "yarn_mistral_templates",
    *,
    run: RunOptions,
    settings: ModeSettings,
) -> None:
    """InfiniteBench from the official files (--data), or its synthetic tasks generated at any length (--lengths)."""
    given.check_order(order)
    from focusdoc.evaluation.generated import MAKERS, REPEATS, check_generated, generated_items
    from focusdoc.evaluation.official import INFINITEBENCH_TASKS, infinitebench_items

    if data is not None:
        if lengths is not None:
            raise EvaluationError(
                "--lengths is for generated tasks and --data for official files; give only one of them."
            )
        names = names_in(tasks) or INFINITEBENCH_TASKS
        items = list(infinitebench_items(data, names, limit=limit, order=order, templates=templates))
        run_items("infinitebench", run, settings, lambda engine: items, {"order": order, "templates": templates})
        return
    from focusdoc.evaluation.engines import count_tokens

    sizes: list[int | None] = [*lengths_in(lengths)] if lengths else [None]
    names = names_in(tasks) or list(MAKERS)
    check_generated(names)
    repeats = REPEATS if limit is None else limit
    run_items(
        "infinitebench",
        run,
        settings,
        lambda engine: generated_items(
            partial(count_tokens, engine), names, sizes, repeats=repeats, seed=seed, order=order
        ),
        {"order": order, "templates": "generated", "seed": seed, "rows": repeats},
    )


@evaluate.command(epilog="For example: focusdoc eval passkey --lengths 4K,16K --mode focus,full --output runs/passkey")
@dataclass_options()
def passkey(
    lengths: given.Lengths = None,
    limit: given.Limit = None,
    seed: given.Seed = 0,
    *,
    run: RunOptions,
    settings: ModeSettings,
) -> None:
    """Find a pass key among sentences of noise, at any length (Figure 1)."""
    from focusdoc.evaluation.engines import count_tokens
    from focusdoc.evaluation.generated import PASSKEY_LENGTHS, REPEATS, passkey_items

    sizes = lengths_in(lengths) if lengths else PASSKEY_LENGTHS
    repeats = REPEATS if limit is None else limit
    run_items(
        "passkey",
        run,
        settings,
        lambda engine: passkey_items(partial(count_tokens, engine), sizes, repeats=repeats, seed=seed),
        {"seed": seed},
    )


@evaluate.command(epilog="For example: focusdoc eval needle --data moby_dick.txt --lengths 4K,32K --output runs/needle")
@dataclass_options()
def needle(
    data: Annotated[Path | None, option("The book; without it, the Python reference.", _WHAT, "FILE")] = None,
    lengths: given.Lengths = None,
    depths: Annotated[str, option("Depths of the needle, 0 to 1.", _WHAT, "N,...")] = "0,0.25,0.5,0.75,1",
    limit: given.Limit = None,
    repeats: Annotated[int, option("Needles for each depth and length.", _WHAT, "N")] = 1,
    seed: given.Seed = 0,
    *,
    run: RunOptions,
    settings: ModeSettings,
) -> None:
    """Find a made-up fact (a needle) at every depth of a real book."""
    from focusdoc.evaluation.generated import NEEDLE_LENGTHS, needle_items
    from focusdoc.evaluation.loading import long_texts

    book = next(long_texts(data))
    sizes = lengths_in(lengths) if lengths else NEEDLE_LENGTHS
    places = depths_in(depths)[:limit]
    run_items(
        "needle",
        run,
        settings,
        lambda engine: needle_items(engine.base.tokenizer, book, sizes, places, repeats=repeats, seed=seed),
        {"seed": seed, "book": book.name},
    )


@evaluate.command(epilog="For example: focusdoc eval natural --data xquad.en.json --reader none --output runs/xquad")
@dataclass_options(mode="read,bm25,embedding")
def natural(
    data: Annotated[
        Path,
        option(
            "SQuAD, whose paragraphs are joined to one document; or JSON lines with question, answers and ctxs, whose "
            'passages are joined; or {"document": [{"question": ..., "answer": a regular expression}]}. Gzipped or '
            "not.",
            _WHAT,
            "FILE",
        ),
    ],
    documents: Annotated[
        Path | None, option("The folder with FILE's documents, as NAME.txt, NAME.pdf or the like.", _WHAT, "DIR")
    ] = None,
    questions: Annotated[
        str,
        option(
            "The range of questions, in the file's order (or of documents, if it has several). Tune on the beginning "
            "and report the end.",
            _WHAT,
            "FROM:TO",
        ),
    ] = "0:1",
    limit: Annotated[int | None, option("Sample this many questions.", _WHAT, "N")] = None,
    pool: Annotated[
        int, option("For JSON lines: how many of the questions' passages are sampled for the document.", _WHAT, "N")
    ] = 500,
    seed: given.Seed = 0,
    max_new_tokens: options.MaxNewTokens = 48,
    *,
    run: RunOptions,
    settings: ModeSettings,
) -> None:
    """Natural questions about long documents: retrieval and answers, compared with retrieval baselines.

    In the mode read a reader answers from the passages that ours finds; ask is ours without a reader.

    In bm25 and embedding the same reader gets passages of a retrieval baseline, with the same token budget.

    With --reader none only retrieval is measured, which is quick.
    """
    from focusdoc.evaluation import natural as benchmark

    choice = benchmark.Choice(share=share_in(questions), limit=limit, pool=pool, seed=seed)
    items = benchmark.load_items(data, choice, documents=documents, max_new_tokens=max_new_tokens)
    facts = {"questions": questions, "limit": limit, "pool": pool, "seed": seed, "max_new_tokens": max_new_tokens}
    run_items("natural", run, settings, lambda engine: items, {"file": data.name, **facts})


@evaluate.command(epilog="For example: focusdoc eval perplexity --data books --chunk-sizes 512,2048 --output runs/ppl")
@dataclass_options(
    without=(
        *("prompt", "quote_tokens", "reader", "reader_model", "store"),
        *("chunk_size", "max_tokens", "passages", "window"),
    )
)
def perplexity(
    data: Annotated[Path | None, option("A text or a folder; without it, the Python reference.", _WHAT, "PATH")] = None,
    lengths: given.Lengths = None,
    limit: given.Limit = None,
    targets: Annotated[int, option("How many of the last tokens to predict.", _WHAT, "N")] = 256,
    chunk_sizes: Annotated[
        str | None, option("Chunk sizes to compare (Figure 5); without it, the adapter's.", _WHAT, "N,...")
    ] = None,
    *,
    run: RunOptions,
    settings: ModeSettings,
) -> None:
    """Perplexity of the last tokens of long texts, by length (Table 1) and by chunk size (Figure 5)."""
    from focusdoc.evaluation.loading import long_texts

    if targets < 1:
        raise EvaluationError(f"--targets is {targets}; it must be at least 1.")
    texts: Iterable[Document] = long_texts(data)
    tokens = lengths_in(lengths) if lengths else None
    sizes = lengths_in(chunk_sizes) if chunk_sizes else []
    names = checked_modes(run)
    if 2 * targets >= settings.local_window and set(names) != {"full"}:  # full attention has no local window
        raise EvaluationError(
            f"--targets is {targets}; it must be less than half of --local-window, {settings.local_window}."
        )
    engine = load_engine(run, settings)
    from focusdoc.evaluation.perplexity import LENGTHS, PerplexityMode, make_jobs

    modes = {name: PerplexityMode(name, engine, settings) for name in names}
    texts = list(texts) if len(names) > 1 else texts
    parts = []
    for name, mode in modes.items():
        if not (possible := mode.lengths(tokens or LENGTHS)):
            limits = f"{engine.base.name} has {engine.base.context_length:,} positions"
            raise EvaluationError(f"No length fits the mode {name}: {limits}; give shorter --lengths.")
        jobs = make_jobs(engine, texts, possible, chunk_sizes=mode.chunk_sizes(sizes), targets=targets, limit=limit)
        parts.append(Part(name, jobs, mode.work, {"targets": targets, **mode.facts}))
    run_parts("perplexity", run, parts)


@evaluate.command(epilog="For example: focusdoc eval score runs/longbench")
def score(
    results: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Outputs of focusdoc eval.")],
    json_output: options.Json = False,
) -> None:
    """Score results again from the saved predictions."""
    from focusdoc.evaluation.results import open_all

    opened = open_all(results)
    if json_output:
        values = [
            {
                "folder": str(one.folder),
                "benchmark": one.benchmark,
                "mode": one.mode,
                "scores": json.loads(one.figures("task").to_json(orient="index", double_precision=15)),
            }
            for one in opened
        ]
        print(json.dumps(values, indent=2))
        return
    for benchmark in dict.fromkeys(one.benchmark for one in opened):
        output.print(benchmark, style="bold")
        show_figures([one for one in opened if one.benchmark == benchmark])


@evaluate.command(epilog="For example: focusdoc eval merge part1/focus part2/focus --output runs/all/focus")
def merge(
    results: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of one mode and configuration.")],
    output_folder: Annotated[Path, option("A new folder for the merged rows.", None, "DIR", "--output")],
) -> None:
    """Merge the rows of shards that ran separately."""
    from focusdoc.evaluation.results import merge as merged

    count = merged(results, output_folder)
    say(f"{count:,} rows are in {output_folder}.")


def report(
    results: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Outputs of focusdoc eval, or parent folders.")
    ],
    output_folder: Annotated[
        Path, option("The folder for report.md, report.html and the figures.", None, "DIR", "--output")
    ] = Path("report"),
    reference: Annotated[
        Path | None, option("Reference results as JSON, instead of the paper's.", None, "FILE")
    ] = None,
) -> None:
    """Write a report: the paper's tables and figures, with ours and the baselines side by side."""
    with errors.status("Scoring and drawing"):
        from focusdoc.evaluation.report import load_reference, write_report

        written = write_report(results, output_folder, load_reference(reference))
    for path in written:
        say(str(path))
