"""``focusdoc eval``: the paper's benchmarks, and the baselines on the same base model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from focusdoc.cli import eval_options as given
from focusdoc.cli import options
from focusdoc.cli.eval_options import RunOptions, lengths_in
from focusdoc.cli.eval_run import run_items

evaluate = typer.Typer(no_args_is_help=True, help="Run the paper's benchmarks, ours and the baselines alike.")


@evaluate.command(epilog="For example: focusdoc eval passkey --lengths 4K,16K --mode focus,full --output runs/passkey")
def passkey(
    output_folder: Annotated[Path, given.OUTPUT],
    lengths: given.Lengths = None,
    limit: given.Limit = None,
    seed: given.Seed = 0,
    mode: given.Modes = "focus",
    chunk_size: given.ChunkSize = None,
    local_window: given.LocalWindow = 2048,
    prompt: given.Prompt = None,
    model: options.Model = None,
    adapter: options.Adapter = "auto",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    store: given.StoreAt = None,
    shard: given.ShardOf = "1/1",
    resume: given.Resume = False,
    retry: given.Retry = False,
) -> None:
    """Find a pass key among sentences of noise, at any length (Figure 1)."""
    run = RunOptions.of(locals())
    from focusdoc.evaluation import passkey as benchmark
    from focusdoc.evaluation.modes import count_tokens

    sizes = lengths_in(lengths) if lengths else benchmark.LENGTHS
    repeats = benchmark.REPEATS if limit is None else limit
    run_items(
        "passkey",
        run,
        lambda engine: list(
            benchmark.load_items(lambda text: count_tokens(engine, text), sizes, repeats=repeats, seed=seed)
        ),
        {"seed": seed},
    )
