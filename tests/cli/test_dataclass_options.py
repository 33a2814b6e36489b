"""Options of a command from the fields of a dataclass: which there are, how they are told, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from focusdoc.cli.dataclass_options import dataclass_options, option
from focusdoc.training.settings import Setting


@dataclass(frozen=True, kw_only=True)
class Steps:
    output: Annotated[Path, option("The run's folder.", "Run", "DIR", "--into")]
    steps: int = field(default=4000, metadata={"help": "Optimizer steps.", "panel": "Optimizer", "metavar": "N"})
    learning_rate: float = field(default=1e-3, metadata={"help": "Its peak.", "panel": "Optimizer"})
    resume: Annotated[bool, Setting("Go on.", "Run")] = False
    model: Annotated[str | None, typer.Option(help="The base model.")] = None
    internal: int = 7


@dataclass(frozen=True, kw_only=True)
class Data:
    seed: int = field(default=0, metadata={"help": "Of what is drawn.", "panel": "Run"})


def made(*arguments: str, without: tuple[str, ...] = (), **defaults: object) -> tuple[Steps, Data, str]:
    """What a command that takes both is given."""
    seen: list[tuple[Steps, Data, str]] = []
    app = typer.Typer()

    @app.command()
    @dataclass_options(without=without, **defaults)
    def train(name: Annotated[str, typer.Argument()], *, data: Data, steps: Steps) -> None:
        seen.append((steps, data, name))

    result = CliRunner().invoke(app, list(arguments))
    if result.exit_code:
        raise ValueError(result.output)
    return seen[0]


def test_fields_with_help_and_annotated_ones_are_options_and_others_keep_their_defaults() -> None:
    steps, data, name = made("one", "--into", "out", "--steps", "5", "--resume", "--model", "tiny", "--seed", "3")
    assert steps == Steps(output=Path("out"), steps=5, resume=True, model="tiny")
    assert (data, name) == (Data(seed=3), "one")
    with pytest.raises(ValueError, match="--internal"):
        made("one", "--into", "out", "--internal", "3")


def test_without_options_defaults_hold_and_a_command_may_have_its_own() -> None:
    assert made("one", "--into", "out")[0] == Steps(output=Path("out"))
    assert made("one", "--into", "out", steps=9)[0].steps == 9


def test_a_field_without_a_default_is_required() -> None:
    with pytest.raises(ValueError, match="--into"):
        made("one")


def test_what_a_command_leaves_out_is_no_option_of_it() -> None:
    assert made("one", "--into", "out", without=("steps",))[0].steps == 4000
    with pytest.raises(ValueError, match="--steps"):
        made("one", "--into", "out", "--steps", "5", without=("steps",))


def test_a_switch_has_no_opposite() -> None:
    with pytest.raises(ValueError, match="--no-resume"):
        made("one", "--into", "out", "--no-resume")
