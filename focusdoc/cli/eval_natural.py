"""``focusdoc eval natural``: natural questions of long documents, ours beside retrieval."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from focusdoc.cli import eval_options as given
from focusdoc.cli import options
from focusdoc.cli.eval_options import RunOptions, share_in
from focusdoc.cli.eval_run import run_items
from focusdoc.evaluation.settings import PASSAGES, WINDOW

_WHAT = "What is asked"


def natural(
    output_folder: Annotated[Path, given.OUTPUT],
    data: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Questions in the form of SQuAD, whose paragraphs become one document; or JSON lines with question, "
            "answers and ctxs, whose passages are joined to one; or "
            '{"document": [{"question": ..., "answer": a regular expression}]}. Gzipped or not.',
            rich_help_panel=_WHAT,
        ),
    ],
    documents: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The folder with the documents that FILE names, as NAME.txt.",
            rich_help_panel=_WHAT,
            show_default=False,
        ),
    ] = None,
    questions: Annotated[
        str,
        typer.Option(
            metavar="FROM:TO",
            help="The share of the questions, in the file's order; where it has several documents, of those. Tune on "
            "the beginning and report the end.",
            rich_help_panel=_WHAT,
        ),
    ] = "0:1",
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", help="Draw this many of these questions.", rich_help_panel=_WHAT, show_default=False),
    ] = None,
    pool: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Of JSON lines: how many of these questions' passages, drawn, make up the document.",
            rich_help_panel=_WHAT,
        ),
    ] = 500,
    seed: Annotated[int, typer.Option(metavar="N", help="Of what is drawn.", rich_help_panel=_WHAT)] = 0,
    max_new_tokens: options.MaxNewTokens = 48,
    mode: given.Modes = "read,bm25,embedding",
    reader: given.Reader = None,
    reader_model: given.ReaderModel = None,
    passages: given.Passages = PASSAGES,
    window: given.Window = WINDOW,
    chunk_size: given.ChunkSize = None,
    local_window: given.LocalWindow = 2048,
    quote_tokens: given.QuoteTokens = None,
    model: options.Model = None,
    adapter: options.Adapter = "auto",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    store: given.StoreAt = None,
    shard: given.ShardOf = "1/1",
    resume: given.Resume = False,
    retry: given.Retry = False,
) -> None:
    """Natural questions of long documents: how often the place is found and the answer right, beside retrieval.

    In the mode read a reader writes the answer from the passages that ours finds; ask is ours without a reader.

    In bm25 and embedding the same reader gets as many tokens of passages that retrieval finds.

    With --reader none nothing is written, and only the finding is measured, which is quick.
    """
    run = RunOptions.of(locals())
    from focusdoc.evaluation import natural as benchmark

    choice = benchmark.Choice(share=share_in(questions), limit=limit, pool=pool, seed=seed)
    items = benchmark.load_items(data, choice, documents=documents, max_new_tokens=max_new_tokens)
    asked = {"questions": questions, "limit": limit, "pool": pool, "seed": seed, "max_new_tokens": max_new_tokens}
    run_items("natural", run, lambda engine: items, {"file": data.name, **asked})
