"""``focusdoc train``: candidate projections for a base model, from texts and questions."""

from __future__ import annotations

import os
import random
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from focusdoc import __version__
from focusdoc.cli import options
from focusdoc.cli.dataclass_options import dataclass_options
from focusdoc.cli.display import errors, output
from focusdoc.cli.training_progress import TrainingProgress, stop_on_interrupt
from focusdoc.errors import ConfigError, TrainingError
from focusdoc.training.processes import Processes, Runtime, launch, under_launcher
from focusdoc.training.settings import SampleShape, Setting, TrainingConfig, parse_mix
from focusdoc.training.sources import load_sources

if TYPE_CHECKING:
    from focusdoc.training.trainer import Trainer

_DATA, _RUN = "Data", "Run"
_INTERRUPTED = 130
#: Objectives of the paper, where no mix is given.
_PAPER_MIX = {"continuation": 1.0, "reconstruction": 1.0}


@dataclass(frozen=True, kw_only=True)
class _Data:
    """What is trained on, and evaluated on."""

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


@dataclass(frozen=True, kw_only=True)
class _Run:
    """Where a run begins, what it leaves, and the processes it takes."""

    output: Annotated[Path, Setting("The run's folder; its adapter/ is the result.", _RUN, "DIR")]
    start_from: Annotated[Path | None, Setting("An adapter to begin with.", _RUN, "DIR")] = None
    resume: Annotated[bool, Setting("Go on where the run stopped.", _RUN)] = False
    seed: Annotated[int, Setting("Of all draws.", _RUN)] = 0
    eval_shape: Annotated[
        list[str] | None, Setting("Chunks x tokens of an evaluation, such as 16x256; repeatable.", _RUN, "CHUNKSxSIZE")
    ] = None
    offload: Annotated[bool, Setting("Keep weights and optimizer on the CPU, to spare a GPU.", _RUN)] = False
    workers: Annotated[int | None, Setting("Processes that prefetch samples; without it, some with a GPU.", _RUN)] = (
        None
    )
    processes: Annotated[
        int, Setting("Processes that share the run: one for a GPU, or for a core or two of a CPU.", _RUN)
    ] = 1


@dataclass(frozen=True, kw_only=True)
class _Base:
    """The base model, and where it runs."""

    model: options.Model = None
    device: options.Device = "auto"
    dtype: options.Dtype = "auto"


@dataclass_options()
def train(data: _Data, run: _Run, base: _Base, shape: SampleShape, config: TrainingConfig) -> None:
    """Train an adapter for a base model; Ctrl-C saves, --resume goes on."""
    if run.processes != 1 and not under_launcher():
        raise typer.Exit(launch(run.processes, [sys.executable, "-m", "focusdoc", *sys.argv[1:]]))
    config = replace(config, memory_strides=_strides(shape.min_chunk_size, shape.max_chunk_size))
    trainer = _trainer(data, run, base, shape, config)
    with stop_on_interrupt() as stopped, TrainingProgress(config.steps, shown=trainer.processes.is_main) as progress:
        if trainer.step:
            progress.note(f"Resuming after step {trainer.step:,}.", done=trainer.step)
        for report in trainer.run(stop=stopped.is_set):
            progress.show(report)
    if trainer.step < config.steps:
        errors.print(f"Stopped and saved after step {trainer.step:,}; go on with --resume.", soft_wrap=True)
        raise typer.Exit(_INTERRUPTED)
    if trainer.processes.is_main:
        output.print(f"The adapter is in {run.output / 'adapter'}.", markup=False, soft_wrap=True)


def _trainer(data: _Data, run: _Run, base: _Base, shape: SampleShape, config: TrainingConfig) -> Trainer:
    """The run as it begins, or goes on; mistakes that are quick to find are found before the model is loaded."""
    mix = None if data.mix is None else parse_mix(data.mix)
    shapes = [_shape(text) for text in run.eval_shape or ()]
    _check_output(run.output, run.resume)
    held_out = load_sources(data.held_out).texts if data.held_out else ()
    sources = load_sources(data.data, exclude=held_out)
    from focusdoc.modeling.quiet import quiet_libraries

    with errors.status("Starting"), quiet_libraries():
        from focusdoc.modeling.base import load_base
        from focusdoc.training.data import DEFAULT_MIX, SampleMaker
        from focusdoc.training.heldout import HeldOut
        from focusdoc.training.trainer import Trainer

        loaded = load_base(base.model, device=_own_device(base.device), dtype=base.dtype)
        if loaded.tokenizer is None:
            raise ConfigError(f"{loaded.name} has no tokenizer beside its weights, which training needs; add one.")
        samples = SampleMaker(
            loaded.tokenizer,
            sources.texts,
            sources.questions,
            mix=mix or dict(DEFAULT_MIX if config.objective == "dense" else _PAPER_MIX),
            shape=shape,
            seed=run.seed,
        )
        samples.draw_text(random.Random(run.seed), shape.max_tokens)  # finds data that are too short
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
            errors.print("There is no checkpoint yet; the run begins.", style="yellow")
    return trainer


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
