"""Validation of the integrations' settings: unknown names are errors, and None means the default."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args

from focusdoc.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from focusdoc.readers import Reader

#: Keyword arguments for tools, which are not supported.
_TOOLS = ("tools", "tool_choice", "functions")


def refuse_unknown(names: Iterable[str], known: Collection[str], owner: str) -> None:
    """Raise ConfigError for a name that is not among the known ones of the class `owner`, and suggest the closest."""
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
            raise ConfigError(f"{owner} has no setting {name!r}; it has {', '.join(sorted(known))}.{hint}")


def known_fields(owner: type[BaseModel], values: Any) -> Any:
    """The values for `owner`'s constructor, without None for fields that do not allow it.

    Raises:
        ConfigError: a name is not a field of `owner`.
    """
    if not isinstance(values, dict):
        return values
    fields = dict(owner.model_fields)
    fields |= {field.alias: field for field in owner.model_fields.values() if field.alias}
    refuse_unknown(values, fields, owner.__name__)
    return {
        name: value
        for name, value in values.items()
        if value is not None or NoneType in get_args(fields[name].annotation)
    }


def call_settings(
    owner: str, own: Mapping[str, Any], given: Mapping[str, Any], names: Mapping[str, str], others: Collection[str] = ()
) -> dict[str, Any]:
    """focusdoc's settings of a call of `owner`: its `own`, overridden by those `given` that are not None.

    Args:
        names: focusdoc's names of settings, by the framework's.
        others: keyword arguments of a call that are not settings.

    Raises:
        ConfigError: a name is unknown, or there are tools.
    """
    if called := [name for name in _TOOLS if given.get(name)]:
        raise ConfigError(f"{owner} cannot call tools; leave {called[0]}= out.")
    refuse_unknown([name for name in given if name not in (*_TOOLS, *others)], names, f"A call of {owner}")
    return {**own, **{names[name]: given[name] for name in given if name in names and given[name] is not None}}


def one_or_many(value: Any, kinds: type | tuple[type, ...] = str) -> Any:
    """A list of one if `value` is a single instance of `kinds`, else `value`."""
    return [value] if isinstance(value, kinds) else value


def reader_of(value: Any, kind: type, wrap: Callable[[Any], Reader]) -> Any:
    """A setting `reader`: a name, folder or address unchanged, an object of `kind` wrapped, any other object opened.

    Raises as `open_reader`.
    """
    if value is None or isinstance(value, str | Path):
        return value
    if isinstance(value, kind):
        return wrap(value)
    from focusdoc.readers import open_reader

    return open_reader(value)
