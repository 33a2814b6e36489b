"""``focusdoc adapter``: show an adapter, check it against a model, convert its format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from focusdoc.cli import options
from focusdoc.cli.dataclass_options import option
from focusdoc.cli.display import errors, output, say
from focusdoc.errors import AdapterError, ConfigError
from focusdoc.terminal import plain

if TYPE_CHECKING:
    from focusdoc.modeling.adapter import Adapter

adapter = typer.Typer(no_args_is_help=True, help="Show an adapter, check it against a model, convert it.")

Source = Annotated[Path, typer.Argument(metavar="ADAPTER", help="An adapter's folder, or an authors' checkpoint.")]


@adapter.command(epilog="For example: focusdoc adapter info runs/mine/adapter")
def info(source: Source, json_output: options.Json = False) -> None:
    """Show what an adapter contains, its base model, and how it was trained."""
    with errors.status("Opening"):
        from focusdoc.modeling.adapter_files import load_adapter

        found = load_adapter(source)
    config = found.config.model_dump(mode="json")
    training = config.pop("training")
    values: dict[str, Any] = {
        **config,
        "parameters": sum(weight.numel() for weight in found.weights.values()),
        "bytes": sum(weight.nbytes for weight in found.weights.values()),
        "dtype": str(next(iter(found.weights.values())).dtype).removeprefix("torch."),
        "finds_passages": found.finding is not None,
    }
    if json_output:
        print(json.dumps({**values, "training": training}, indent=2))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(name.replace("_", " "), _formatted(value))
    for name, value in training.items():
        table.add_row(f"training: {name.replace('_', ' ')}", _formatted(_last_points(name, value)))
    output.print(table, soft_wrap=not output.is_terminal)


@adapter.command(epilog="For example: focusdoc adapter verify runs/mine/adapter --model ./my-model")
def verify(source: Source, model: options.Model = None) -> None:
    """Check every weight of an adapter against a base model; exit code 2 if it does not fit."""
    from focusdoc.modeling.quiet import quiet_libraries

    with errors.status("Checking"), quiet_libraries():
        from focusdoc.modeling.adapter import check_adapter
        from focusdoc.modeling.adapter_files import load_adapter
        from focusdoc.modeling.base import load_base

        found = load_adapter(source)
        base = load_base(model, device="cpu")
        check_adapter(found, base.model)
    known = "" if found.config.base_fingerprint else " It has no model fingerprint, so only shapes were compared."
    say(f"The adapter fits {plain(base.name)}.{known}")


@adapter.command(epilog="For example: focusdoc adapter convert adapter beacon.safetensors --to official")
def convert(
    source: Source,
    target: Annotated[Path, typer.Argument(metavar="OUTPUT", help="A new folder; for official, a new file.")],
    to: Annotated[str, option("The format to write.", None, "official|ours")],
    model: Annotated[
        str | None,
        option(
            "Check against this base model, and record it in ours; to make a low-rank adapter official.",
            None,
            "FOLDER|NAME",
        ),
    ] = None,
    rank: Annotated[
        int | None,
        option("With ours and --model: store low-rank differences to the base, as of train --rank.", None, "R"),
    ] = None,
) -> None:
    """Convert an adapter to the tensor names of the authors' code (beacon_*), or to our format."""
    if to not in ("official", "ours"):
        raise ConfigError(f"--to is {to!r}; choose official or ours.")
    if target.exists():
        raise AdapterError(f"{target} exists already; name a new {'file' if to == 'official' else 'folder'}.")
    if to == "official" and target.suffix != ".safetensors":
        raise ConfigError(f"The output {target} must end in .safetensors, the file type of the official format.")
    if rank is not None and (to != "ours" or model is None):
        raise ConfigError("--rank stores the difference to the base model's weights; add --to ours and --model.")
    from focusdoc.modeling.quiet import quiet_libraries

    with errors.status("Converting"), quiet_libraries():
        from focusdoc.modeling.adapter_files import load_adapter, save_adapter, to_official_names

        found = load_adapter(source)
        if model is not None:
            found = _of_model(found, model, rank, full=to == "official")
        if to == "official":
            _write(to_official_names(found), target)
        else:
            save_adapter(found, target)
    say(f"Written to {target}.")


def _of_model(found: Adapter, model: str, rank: int | None, *, full: bool) -> Adapter:
    """The adapter with the name and fingerprint of `model`, which it must fit; low-rank if asked for, or full."""
    from focusdoc.modeling.adapter import check_adapter
    from focusdoc.modeling.base import load_base
    from focusdoc.modeling.low_rank import low_rank, merged

    base = load_base(model, device="cpu")
    check_adapter(found, base.model)
    names = {"base_model": base.name, "base_fingerprint": base.fingerprint}
    named = replace(found, config=found.config.model_copy(update=names))
    if rank is not None:
        return low_rank(named, base.model, rank)
    return merged(named, base.model, model_fingerprint=base.fingerprint) if full else named


def _write(tensors: dict[str, Any], target: Path) -> None:
    """Write a safetensors file whole or not at all."""
    from safetensors.torch import save

    from focusdoc.storage import atomic_write

    try:
        atomic_write(target, save({name: tensor.contiguous() for name, tensor in tensors.items()}))
    except OSError as error:
        raise AdapterError(f"{target} cannot be written ({error.strerror}); choose another place.") from error


def _formatted(value: Any) -> str:
    if isinstance(value, bool | None):
        return {True: "yes", False: "no", None: "not known"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return plain(value if isinstance(value, str) else json.dumps(value))


def _last_points(name: str, value: Any) -> Any:
    """Curves and held-out results reduced to their last point."""
    if name == "curves" and isinstance(value, dict):
        curves = {curve: lines for curve, lines in value.items() if isinstance(lines, dict)}
        return {curve: {key: points[-1] for key, points in lines.items() if points} for curve, lines in curves.items()}
    if name == "held_out_results" and isinstance(value, list):
        return value[-1] if value else None
    return value
