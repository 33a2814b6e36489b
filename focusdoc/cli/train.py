"""``focusdoc train``: candidate projections for a base model, from texts and questions."""

from __future__ import annotations

import os
import random
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from focusdoc import __version__
from focusdoc.cli import options
from focusdoc.cli.display import errors, output
from focusdoc.cli.training_progress import TrainingProgress, stop_on_interrupt
from focusdoc.errors import ConfigError, TrainingError
from focusdoc.training.launching import launch, under_launcher
from focusdoc.training.settings import TrainingConfig, parse_mix
from focusdoc.training.shape import SampleShape
from focusdoc.training.sources import gather_sources

if TYPE_CHECKING:
    from focusdoc.modeling.base import BaseModel
    from focusdoc.training.data import SampleMaker

_DATA, _SAMPLES, _STEPS, _METHOD, _RUN = "Data", "Samples", "Optimizer", "Method", "Run"
_INTERRUPTED = 130


def _option(help: str, panel: str, metavar: str | None = None, *names: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel)


def train(
    data: Annotated[
        list[Path],
        _option("Texts (.txt, .md, .pdf), questions (.json, .jsonl) or folders of them; repeatable.", _DATA, "PATH"),
    ],
    output_folder: Annotated[Path, _option("The run's folder; its adapter/ is the result.", _RUN, "DIR", "--output")],
    model: options.Model = None,
    held_out: Annotated[
        list[Path] | None, _option("Texts to evaluate on and never train on; repeatable.", _DATA, "PATH")
    ] = None,
    mix: Annotated[
        str | None,
        _option("Weights of the objectives, such as number=0.2,words=0.3,reconstruction=0.5.", _DATA, "NAME=W,..."),
    ] = None,
    max_tokens: Annotated[
        int, _option("Chunk tokens read for a sample, at most.", _SAMPLES, "N")
    ] = SampleShape.max_tokens,
    max_chunks: Annotated[int, _option("Chunks of a sample, at most.", _SAMPLES, "N")] = SampleShape.max_chunks,
    min_chunk_size: Annotated[int, _option("Tokens of a chunk, at least.", _SAMPLES, "N")] = SampleShape.min_chunk_size,
    max_chunk_size: Annotated[int, _option("Tokens of a chunk, at most.", _SAMPLES, "N")] = SampleShape.max_chunk_size,
    prompts: Annotated[
        int, _option("Prompts that share the chunks of a sample, at most.", _SAMPLES, "N")
    ] = SampleShape.prompts,
    max_rows: Annotated[
        int | None, _option("Rows that the prompts of a sample may take; bounds a step's time.", _SAMPLES, "N")
    ] = SampleShape.max_rows,
    max_reused: Annotated[
        int, _option("Earlier samples whose chunks, already read, may join a sample.", _SAMPLES, "N")
    ] = SampleShape.max_reused,
    max_local: Annotated[
        int, _option("Tokens of the local context of a continuation, at most.", _SAMPLES, "N")
    ] = SampleShape.max_local,
    quoted: Annotated[
        float, _option("Share of questions that are asked with passages beside them, as at use.", _SAMPLES, "X")
    ] = SampleShape.quoted,
    targets: Annotated[
        int, _option("Target tokens of a continuation or reconstruction.", _SAMPLES, "N")
    ] = SampleShape.targets,
    steps: Annotated[int, _option("Optimizer steps.", _STEPS, "N")] = TrainingConfig.steps,
    learning_rate: Annotated[float, _option("Peak of the learning rate.", _STEPS, "X")] = TrainingConfig.learning_rate,
    schedule: Annotated[
        str, _option("What follows the warm-up.", _STEPS, "cosine|linear|constant")
    ] = TrainingConfig.schedule,
    warmup: Annotated[int, _option("Steps of linear rise.", _STEPS, "N")] = TrainingConfig.warmup,
    clip: Annotated[float, _option("Largest norm of the gradient.", _STEPS, "X")] = TrainingConfig.clip,
    accumulate: Annotated[int, _option("Samples behind one step.", _STEPS, "N")] = TrainingConfig.accumulate,
    objective: Annotated[
        str, _option("dense trains all target tokens at once, paper one, as the authors do.", _METHOD, "dense|paper")
    ] = TrainingConfig.objective,
    local_window: Annotated[
        int, _option("Local window of the paper's objective, in tokens.", _METHOD, "N")
    ] = TrainingConfig.local_window,
    rank: Annotated[
        int | None, _option("Train matrices of this rank; without it, full ones.", _METHOD, "R")
    ] = TrainingConfig.rank,
    distill: Annotated[
        float, _option("Weight of the base model, with all of the text, as a teacher.", _METHOD, "X")
    ] = TrainingConfig.distill,
    first_token: Annotated[
        float,
        _option("Weight of an answer's first token, beside the mean of all of them.", _METHOD, "X"),
    ] = TrainingConfig.first_token,
    projections: Annotated[
        str, _option("The projections to train, letters of qkvo.", _METHOD, "LETTERS")
    ] = TrainingConfig.projections,
    candidate_positions: Annotated[
        str, _option("Where candidates stand in front of the local context.", _METHOD, "sequential|shared")
    ] = TrainingConfig.candidate_positions,
    chunk_size: Annotated[
        int, _option("The chunk size that the adapter recommends.", _METHOD, "N")
    ] = TrainingConfig.chunk_size,
    start_from: Annotated[Path | None, _option("An adapter to begin with.", _RUN, "DIR")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the run stopped.", rich_help_panel=_RUN)
    ] = False,
    seed: Annotated[int, _option("Of all draws.", _RUN, "N")] = 0,
    save_every: Annotated[int, _option("Steps between checkpoints.", _RUN, "N")] = TrainingConfig.save_every,
    eval_every: Annotated[
        int, _option("Steps between evaluations; 0 for one at the end.", _RUN, "N")
    ] = TrainingConfig.eval_every,
    eval_shape: Annotated[
        list[str] | None, _option("Chunks x tokens of an evaluation, such as 16x256; repeatable.", _RUN, "CHUNKSxSIZE")
    ] = None,
    offload: Annotated[
        bool,
        typer.Option("--offload", help="Keep weights and optimizer on the CPU, to spare a GPU.", rich_help_panel=_RUN),
    ] = False,
    workers: Annotated[
        int | None, _option("Processes that make samples ahead; without it, some beside a GPU.", _RUN, "N")
    ] = None,
    processes: Annotated[
        int, _option("Processes that share the run: one for a GPU, or for a core or two of a CPU.", _RUN, "N")
    ] = 1,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
) -> None:
    """Train an adapter for a base model; Ctrl-C saves, --resume goes on."""
    if processes != 1 and not under_launcher():
        raise typer.Exit(launch(processes, [sys.executable, "-m", "focusdoc", *sys.argv[1:]]))
    given = locals()
    given["memory_strides"] = _strides(min_chunk_size, max_chunk_size)
    config = TrainingConfig(**{each.name: given[each.name] for each in fields(TrainingConfig) if each.name in given})
    shape = SampleShape(**{each.name: given[each.name] for each in fields(SampleShape)})
    weights = None if mix is None else parse_mix(mix)
    shapes = [_shape(text) for text in eval_shape or ()]
    _check_output(output_folder, resume)
    held_out_texts = gather_sources(held_out).texts if held_out else ()
    sources = gather_sources(data, without=held_out_texts)
    from focusdoc.modeling.quiet import quiet_libraries

    with errors.status("Starting"), quiet_libraries():
        from focusdoc.modeling.base import load_base
        from focusdoc.training.heldout import HeldOut
        from focusdoc.training.processes import Processes
        from focusdoc.training.trainer import Trainer

        base = load_base(model, device=_own_device(device), dtype=dtype)
        if base.tokenizer is None:
            raise ConfigError(f"{base.name} has no tokenizer beside its weights, which training needs; add one.")
        samples = _samples(base, sources.texts, sources.questions, weights, shape, seed, objective)
        test = None
        if held_out_texts:
            test = HeldOut(tokenizer=base.tokenizer, texts=held_out_texts, shapes=shapes or HeldOut.shapes)
            test.check()
        run = Processes.launched(base.device)
        samples.stride = run.count
        trainer = Trainer(
            base,
            samples,
            config,
            output_folder,
            start_from=start_from,
            record={
                "command": shlex.join(["focusdoc", *sys.argv[1:]]),
                "focusdoc": __version__,
                "data": sources.describe(),
                "held_out": [path.name for path in held_out_texts],
            },
            held_out=test,
            processes=run,
            tensorboard=True,
            # Set by `accelerate launch` from its configuration file.
            offload=offload or os.environ.get("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE") == "cpu",
            workers=workers,
        )
        if resume and not trainer.resume() and run.is_main:
            errors.print("There is no checkpoint yet; the run begins.", style="yellow")
    with stop_on_interrupt() as stopped, TrainingProgress(config.steps, shown=run.is_main) as progress:
        if trainer.step:
            progress.note(f"Resuming after step {trainer.step:,}.", done=trainer.step)
        for report in trainer.run(stop=stopped.is_set):
            progress.show(report)
    if trainer.step < config.steps:
        errors.print(f"Stopped and saved after step {trainer.step:,}; go on with --resume.", soft_wrap=True)
        raise typer.Exit(_INTERRUPTED)
    if run.is_main:
        output.print(f"The adapter is in {output_folder / 'adapter'}.", markup=False, soft_wrap=True)


def _samples(
    base: BaseModel, texts: Any, questions: Any, mix: dict[str, float] | None, shape: SampleShape, seed: int, kind: str
) -> SampleMaker:
    """The source of samples, tried once, so that data that are too short are found before the first step."""
    from focusdoc.training.data import DEFAULT_MIX, SampleMaker

    usual = DEFAULT_MIX if kind == "dense" else {"continuation": 1.0, "reconstruction": 1.0}
    samples = SampleMaker(base.tokenizer, texts, questions, mix=dict(mix or usual), shape=shape, seed=seed)
    samples.ground(random.Random(seed), shape.max_tokens)
    return samples


def _strides(smallest: int, largest: int) -> tuple[int, ...]:
    """The chunk sizes of the paper's objective: the authors', as far as they lie within the given range."""
    return tuple(size for size in TrainingConfig.memory_strides if smallest <= size <= largest) or (smallest,)


def _shape(text: str) -> tuple[int, int]:
    """The numbers in ``16x256``."""
    chunks, _, size = text.partition("x")
    if not (chunks.isdigit() and size.isdigit() and int(chunks) and int(size) > 1):
        raise ConfigError(f"--eval-shape is {text!r}; write it as chunks x tokens, such as 16x256.")
    return int(chunks), int(size)


def _check_output(folder: Path, resume: bool) -> None:
    """Refuse an output folder that holds something else, before anything slow is done."""
    if folder.exists() and not folder.is_dir():
        raise TrainingError(f"The output {folder} is a file; name a folder.")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if "checkpoint" in names and not resume:
        raise TrainingError(f"{folder} holds a run already; go on with --resume, or choose another output folder.")
    others = sorted(names - {"checkpoint", "adapter", "metrics.jsonl", "tensorboard"})
    if others and "checkpoint" not in names:
        raise TrainingError(f"{folder} holds other files ({others[0]}); choose an output folder of its own.")


def _own_device(device: str) -> str:
    """Under a launcher of several processes, each has a GPU of its own."""
    local = os.environ.get("LOCAL_RANK")
    if device != "auto" or local is None:
        return device
    import torch

    found = torch.cuda.device_count()
    if found and int(local) >= found:
        raise ConfigError(
            f"Process {int(local) + 1} of the run has no GPU of its own; there are {found} for --processes."
        )
    return f"cuda:{local}" if found else "cpu"
