"""Options of a command from the fields of a dataclass: what a run is given stands once, with its help beside it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from focusdoc.training.settings import Setting


def option(help: str, panel: str, metavar: str | None = None, *names: str, default: Any = MISSING) -> Any:
    """A field of a dataclass that is an option: ``steps: int = option("Optimizer steps.", "Run", "N", default=4000)``.

    Args:
        names: its spellings on the command line; none for the field's own name.
    """
    return field(default=default, metadata={"help": help, "panel": panel, "metavar": metavar, "names": names})


def dataclass_options(
    *, without: Collection[str] = (), **defaults: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function: a parameter that is a dataclass becomes the options of its fields.

    Options are the fields with ``help`` in their metadata, beside which ``panel``, ``metavar`` and ``names`` may stand,
    and those of a type that is ``Annotated`` with an option or a `Setting`. All others, and those left out, keep their
    defaults; the dataclasses check values.

    Args:
        without: fields that this command leaves out.
        defaults: of fields, in place of their own.
    """

    def decorated(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        kinds: dict[str, type] = {}
        shown: list[inspect.Parameter] = []
        for parameter in inspect.signature(function).parameters.values():
            kind = hints[parameter.name]
            if isinstance(kind, type) and is_dataclass(kind):
                kinds[parameter.name] = kind
                shown += _parameters(kind, without, defaults)
            else:
                shown.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))

        @functools.wraps(function)
        def command(**given: Any) -> None:
            made = {
                name: kind(**{each.name: given.pop(each.name) for each in fields(kind) if each.name in given})
                for name, kind in kinds.items()
            }
            function(**made, **given)

        command.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]  # typer reads both of these
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
        return command

    return decorated


def _parameters(kind: type, without: Collection[str], defaults: Mapping[str, Any]) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    for each in fields(kind):
        hint, default = hints[each.name], defaults.get(each.name, each.default)
        if "help" in each.metadata:
            hint = Annotated[hint, _option(each, default)]
        elif get_origin(hint) is Annotated and isinstance(get_args(hint)[1], Setting):
            hint = _of_setting(each.name, *get_args(hint))
        if each.name not in without and get_origin(hint) is Annotated:
            default = inspect.Parameter.empty if default is MISSING else default
            yield inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _option(each: Field[Any], default: Any) -> Any:
    told = each.metadata
    # A switch has no opposite, since it is off when it is not given.
    names = told.get("names") or ([f"--{each.name.replace('_', '-')}"] if default is False else [])
    shown = default is not None
    return typer.Option(
        *names, metavar=told.get("metavar"), help=told["help"], rich_help_panel=told.get("panel"), show_default=shown
    )


def _of_setting(name: str, hint: Any, setting: Setting) -> Any:
    """The annotation that typer reads, of a field that is annotated with a `Setting`."""
    names = [f"--{name.replace('_', '-')}"] if hint is bool else []
    metavar = setting.metavar or {int: "N", int | None: "N", float: "X"}.get(hint)
    if get_origin(hint) is Literal:
        hint, metavar = str, "|".join(get_args(hint))  # the dataclass says what is wrong with another word
    return Annotated[hint, typer.Option(*names, metavar=metavar, help=setting.help, rich_help_panel=setting.panel)]
