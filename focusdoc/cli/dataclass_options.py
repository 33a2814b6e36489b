"""Command-line options, also from the fields of a dataclass, so that a setting and its option are written once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from focusdoc.training.settings import Setting


def option(help: str, panel: str | None = None, metavar: str | None = None, *names: str, **more: Any) -> Any:
    """An option for the annotation of a parameter or field, named after it by default; `more` as for `typer.Option`."""
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar, **more)


def switch(name: str, help: str, panel: str | None = None) -> Any:
    """A flag; named, or typer would add its ``--no-...``."""
    return option(help, panel, None, name)


def dataclass_options(
    *, without: Collection[str] = (), **defaults: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Turn a function into a typer command: each parameter that is a dataclass is replaced by options for its fields.

    These are the fields whose type is ``Annotated`` with an option or a `Setting`, and those with a `Setting`'s values
    in their metadata. All other fields keep their defaults. The dataclasses validate the values.

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
        hint = Annotated[hints[each.name], Setting(**each.metadata)] if each.metadata else hints[each.name]
        if each.name in without or get_origin(hint) is not Annotated:
            continue
        inner, about = get_args(hint)
        if isinstance(about, Setting):
            hint = _of_setting(each.name, inner, about)
        default = defaults.get(each.name, each.default)
        default = inspect.Parameter.empty if default is MISSING else default
        yield inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _of_setting(name: str, hint: Any, setting: Setting) -> Any:
    """The typer annotation for a field with a `Setting`."""
    if hint is bool:
        return Annotated[hint, switch(f"--{name.replace('_', '-')}", setting.help, setting.panel)]
    metavar = setting.metavar or {int: "N", int | None: "N", float: "X"}.get(hint)
    if get_origin(hint) is Literal:
        hint, metavar = str, "|".join(get_args(hint))  # the dataclass rejects other values
    return Annotated[hint, option(setting.help, setting.panel, metavar)]
