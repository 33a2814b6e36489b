"""``focusdoc train``: train an adapter for a base model on texts and questions."""

from __future__ import annotations

import os
import random
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from focusdoc import __version__
from focusdoc.cli import options
from focusdoc.cli.dataclass_options import dataclass_options
from focusdoc.cli.display import errors, note, say, stopped_by_ctrl_c
from focusdoc.errors import ConfigError, TrainingError
from focusdoc.storage import TEMP_MARK
from focusdoc.training.processes import Processes, Runtime, launch, under_launcher
from focusdoc.training.settings import SampleShape, Setting, TrainingConfig, parse_mix
from focusdoc.training.sources import load_sources

if TYPE_CHECKING:
    from focusdoc.training.trainer import StepReport, Trainer

_DATA, _RUN = "Data", "Run"
_INTERRUPTED = 130
#: The decay of the moving average of the losses.
_SMOOTHING = 0.9
_STOPPING = "Stopping after this step; Ctrl-C once more loses it."
#: The default mix of the paper's objective.
_PAPER_MIX = {"continuation": 1.0, "reconstruction": 1.0}


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The data, the output, the start, the processes and the base model of a run."""

    data: Annotated[
        list[Path],
        Setting("Texts (.txt, .md, .pdf), questions (.json, .jsonl) or folders of them; repeatable.", _DATA, "PATH"),
    ]
    held_out: Annotated[
        list[Path] | None, Setting("Texts to evaluate on and never train on; repeatable.", _DATA, "PATH")
    ] = None
    mix: Annotated[
        str | None,
        Setting("Weights of the objectives, such as number=0.2,words=0.3,reconstruction=0.5.", _DATA, "NAME=W,..."),
    ] = None
    output: Annotated[Path, Setting("The run's folder; its adapter/ is the result.", _RUN, "DIR")]
    start_from: Annotated[Path | None, Setting("An adapter to start from.", _RUN, "DIR")] = None
    resume: Annotated[bool, Setting("Resume from the last checkpoint.", _RUN)] = False
    seed: Annotated[int, Setting("The random seed.", _RUN)] = 0
    eval_shape: Annotated[
        list[str] | None, Setting("Chunks x tokens of an evaluation, such as 16x256; repeatable.", _RUN, "CHUNKSxSIZE")
    ] = None
    offload: Annotated[bool, Setting("Keep weights and optimizer on the CPU, to save GPU memory.", _RUN)] = False
    workers: Annotated[int | None, Setting("Processes that prefetch samples; without it, some with a GPU.", _RUN)] = (
        None
    )
    processes: Annotated[
        int, Setting("Data-parallel processes: one for each GPU, or for each one or two CPU cores.", _RUN)
    ] = 1
    model: options.Model = None
    device: options.Device = "auto"
    dtype: options.Dtype = "auto"


@dataclass_options()
def train(run: _Run, shape: SampleShape, config: TrainingConfig) -> None:
    """Train an adapter for a base model; Ctrl-C saves a checkpoint, --resume continues from it."""
    if run.processes != 1 and not under_launcher():
        raise typer.Exit(launch(run.processes, [sys.executable, "-m", "focusdoc", *sys.argv[1:]]))
    config = replace(config, memory_strides=_strides(shape.min_chunk_size, shape.max_chunk_size))
    trainer = _trainer(run, shape, config)
    with stopped_by_ctrl_c(_STOPPING) as stopped, _progress(trainer) as show:
        for report in trainer.run(stop=stopped.is_set):
            show(report)
    if trainer.step < config.steps:
        note(f"Stopped and saved after step {trainer.step:,}; continue with --resume.")
        raise typer.Exit(_INTERRUPTED)
    if trainer.processes.is_main:
        say(f"The adapter is in {run.output / 'adapter'}.")


def _trainer(run: _Run, shape: SampleShape, config: TrainingConfig) -> Trainer:
    """Set up the run, resumed if asked for; checks what it can before it loads the model."""
    mix = None if run.mix is None else parse_mix(run.mix)
    shapes = [_shape(text) for text in run.eval_shape or ()]
    _check_output(run.output, run.resume)
    held_out = load_sources(run.held_out).texts if run.held_out else ()
    sources = load_sources(run.data, exclude=held_out)
    from focusdoc.modeling.quiet import quiet_libraries

    with errors.status("Starting"), quiet_libraries():
        from focusdoc.modeling.base import load_base
        from focusdoc.training.data import DEFAULT_MIX, SampleMaker
        from focusdoc.training.metrics import HeldOut
        from focusdoc.training.trainer import Trainer

        loaded = load_base(run.model, device=_own_device(run.device), dtype=run.dtype)
        if loaded.tokenizer is None:
            raise ConfigError(f"{loaded.name} has no tokenizer, which training needs; put one into the model's folder.")
        samples = SampleMaker(
            loaded.tokenizer,
            sources.texts,
            sources.questions,
            mix=mix or dict(DEFAULT_MIX if config.objective == "dense" else _PAPER_MIX),
            shape=shape,
            seed=run.seed,
        )
        samples.draw_text(random.Random(run.seed), shape.max_tokens)  # fails now if the texts are too short
        test = None
        if held_out:
            test = HeldOut(tokenizer=loaded.tokenizer, texts=held_out, shapes=shapes or HeldOut.shapes)
            test.check()
        processes = Processes.launched(loaded.device)
        samples.stride = processes.count
        # Set by `accelerate launch` from its configuration file.
        offload = run.offload or os.environ.get("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE") == "cpu"
        trainer = Trainer(
            loaded,
            samples,
            config,
            run.output,
            start_from=run.start_from,
            record={
                "command": shlex.join(["focusdoc", *sys.argv[1:]]),
                "focusdoc": __version__,
                "data": sources.describe(),
                "held_out": [path.name for path in held_out],
            },
            held_out=test,
            runtime=Runtime(processes=processes, workers=run.workers, offload=offload, tensorboard=True),
        )
        if run.resume and not trainer.resume() and processes.is_main:
            note("There is no checkpoint yet; starting a new run.", "yellow")
    return trainer


@contextmanager
def _progress(trainer: Trainer) -> Iterator[Callable[[StepReport], None]]:
    """Show a bar with the losses, the speed and the time left, or lines without a terminal; yields the callback."""
    averages: dict[str, float] = {}
    columns = (
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )

    def show(report: StepReport) -> None:
        if not trainer.processes.is_main:
            return
        for name, loss in report.losses.items():
            averages[name] = _SMOOTHING * averages.get(name, loss) + (1 - _SMOOTHING) * loss
        losses = averages if errors.is_terminal else report.losses
        listed = "  ".join(f"{name} {loss:.2f}" for name, loss in sorted(losses.items()))
        line = f"{report.tokens / report.seconds:,.0f} tokens/s  {listed}"
        bar.update(task, completed=report.step, description=line)
        if not errors.is_terminal:
            note(f"step {report.step:,}  {line}")
        if report.held_out:
            results = "  ".join(f"{name} {value:.2f}" for name, value in report.held_out.items())
            note(f"step {report.step:,}  held out: {results}")

    with Progress(*columns, console=errors, disable=not (trainer.processes.is_main and errors.is_terminal)) as bar:
        task = bar.add_task("", total=trainer.config.steps, completed=trainer.step)
        if trainer.step and trainer.processes.is_main:
            note(f"Resuming after step {trainer.step:,}.")
        yield show


def _strides(smallest: int, largest: int) -> tuple[int, ...]:
    """The authors' chunk sizes for the paper's objective, restricted to the range."""
    return tuple(size for size in TrainingConfig.memory_strides if smallest <= size <= largest) or (smallest,)


def _shape(text: str) -> tuple[int, int]:
    """The numbers in ``16x256``."""
    chunks, _, size = text.partition("x")
    if not (chunks.isdigit() and size.isdigit() and int(chunks) and int(size) > 1):
        raise ConfigError(f"--eval-shape is {text!r}; write it as chunks x tokens, such as 16x256.")
    return int(chunks), int(size)


def _check_output(folder: Path, resume: bool) -> None:
    """Raise TrainingError for an output folder with other contents, before anything slow."""
    if folder.exists() and not folder.is_dir():
        raise TrainingError(f"The output {folder} is a file; name a folder.")
    paths = list(folder.iterdir()) if folder.exists() else []
    names = {path.name for path in paths if TEMP_MARK not in path.name}  # but for what a killed run left
    if "checkpoint" in names and not resume:
        raise TrainingError(f"{folder} already has a run; continue with --resume, or choose another output folder.")
    others = sorted(names - {"checkpoint", "adapter", "metrics.jsonl", "tensorboard"})
    if others and "checkpoint" not in names:
        raise TrainingError(f"{folder} has other files ({others[0]}); choose another output folder.")


def _own_device(device: str) -> str:
    """The device of this process; under a launcher each process has its own GPU."""
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
