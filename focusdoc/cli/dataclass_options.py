"""Command-line options from the fields of a dataclass, so that a setting and its option are written once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from focusdoc.training.settings import Setting


def option(help: str, panel: str, metavar: str | None = None, *names: str, default: Any = MISSING) -> Any:
    """A dataclass field that becomes an option: ``steps: int = option("Optimizer steps.", "Run", "N", default=4000)``.

    Args:
        names: the option's names, if not derived from the field's name.
    """
    return field(default=default, metadata={"help": help, "panel": panel, "metavar": metavar, "names": names})


def dataclass_options(
    *, without: Collection[str] = (), **defaults: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Turn a function into a typer command: each parameter that is a dataclass is replaced by options for its fields.

    These are the fields with ``help`` in their metadata (optionally ``panel``, ``metavar`` and ``names``), and those
    whose type is ``Annotated`` with an option or a `Setting`. All other fields keep their defaults. The dataclasses
    validate the values.

    Args:
        without: fields without an option.
        defaults: override the defaults of fields.
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
            values = {
                name: kind(**{each.name: given.pop(each.name) for each in fields(kind) if each.name in given})
                for name, kind in kinds.items()
            }
            function(**values, **given)

        command.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]  # typer reads both
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
    metadata = each.metadata
    # Explicit names, or typer would add a --no-... option.
    names = metadata.get("names") or ([f"--{each.name.replace('_', '-')}"] if default is False else [])
    return typer.Option(
        *names,
        metavar=metadata.get("metavar"),
        help=metadata["help"],
        rich_help_panel=metadata.get("panel"),
        show_default=default is not None,
    )


def _of_setting(name: str, hint: Any, setting: Setting) -> Any:
    """The typer annotation for a field that is annotated with a `Setting`."""
    names = [f"--{name.replace('_', '-')}"] if hint is bool else []
    metavar = setting.metavar or {int: "N", int | None: "N", float: "X"}.get(hint)
    if get_origin(hint) is Literal:
        hint, metavar = str, "|".join(get_args(hint))  # the dataclass rejects other values
    return Annotated[hint, typer.Option(*names, metavar=metavar, help=setting.help, rich_help_panel=setting.panel)]
