"""Options made from dataclasses, so that a setting and its option are written once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from inspect import Parameter, Signature
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from focusdoc.training.settings import Setting

#: What stands for a value in the help, where neither its `Setting` nor the choices of a literal say it.
_METAVARS = {int: "N", int | None: "N", float: "X"}


def options_of_dataclasses(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, whose parameters are dataclasses, as typer takes it: with an option for each annotated field.

    The annotation is a `Setting` or typer's own; fields without one keep their default. The dataclasses check values.
    """
    kinds: dict[str, Any] = get_type_hints(command)
    kinds.pop("return", None)
    options = {name: list(_options(kind)) for name, kind in kinds.items()}

    @functools.wraps(command)
    def field_by_field(**given: Any) -> None:
        values = {name: {each.name: given[each.name] for each in group} for name, group in options.items()}
        command(**{name: kinds[name](**fields) for name, fields in values.items()})

    parameters = [option for group in options.values() for option in group]
    field_by_field.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return field_by_field


def _options(kind: Any) -> Iterator[Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    for each in fields(kind):
        hint = hints[each.name]
        if get_origin(hint) is Annotated:
            default = Parameter.empty if each.default is MISSING else each.default
            yield Parameter(each.name, Parameter.KEYWORD_ONLY, default=default, annotation=_option(each.name, hint))


def _option(name: str, annotated: Any) -> Any:
    """The annotation that typer reads, of a field with this one."""
    hint, setting = get_args(annotated)
    if not isinstance(setting, Setting):
        return annotated
    names = [f"--{name.replace('_', '-')}"] if hint is bool else []  # no --no-... beside it
    metavar = setting.metavar or _METAVARS.get(hint)
    if get_origin(hint) is Literal:
        hint, metavar = str, "|".join(get_args(hint))  # what is wrong with another word, the dataclass says
    return Annotated[hint, typer.Option(*names, metavar=metavar, help=setting.help, rich_help_panel=setting.panel)]
