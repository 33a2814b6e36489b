"""Settings of the frameworks' objects: the unknown refused by name, and None taken for the default."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args

from focusdoc.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from focusdoc.readers import Reader

#: The settings that say how a model is loaded; see `focusdoc.chat.shared.shared_chat`.
LOADING = ("model", "adapter", "config", "device", "dtype", "attention", "store", "reader", "reader_model")


def refuse_unknown(names: Iterable[str], known: Collection[str], owner: str) -> None:
    """Raise ConfigError for a name that is not among the known ones, with the nearest of them.

    Args:
        owner: what has the settings.
    """
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            meant = f" Did you mean {nearest[0]!r}?" if nearest else ""
            raise ConfigError(f"{owner} has no setting {name!r}; it has {', '.join(sorted(known))}.{meant}")


def known_fields(owner: type[BaseModel], values: Any) -> Any:
    """The values that `owner` is made of, where None stands for a default that is not None.

    Raises:
        ConfigError: `owner` has no field of a value's name.
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


def one_or_many(value: Any, kinds: type | tuple[type, ...] = str) -> Any:
    """A list of one, where a value stands alone that may come alone or in a list."""
    return [value] if isinstance(value, kinds) else value


def reader_of(value: Any, kind: type, wrap: Callable[[Any], Reader]) -> Any:
    """A setting `reader`: a name, a folder or an address as it is, an object of `kind` wrapped, any other one opened.

    Raises:
        ConfigError, UnsupportedModelError: it is no reader.
    """
    if value is None or isinstance(value, str | Path):
        return value
    if isinstance(value, kind):
        return wrap(value)
    from focusdoc.readers import open_reader

    return open_reader(value)


def check_alone(made: BaseModel) -> None:
    """Raise ConfigError where an object that is given its engine was also told how to load one."""
    fields = type(made).model_fields
    wrong = [name for name in LOADING if getattr(made, name) != fields[name].default]
    if wrong:
        raise ConfigError(f"engine= is loaded already, so {wrong[0]}= would mean nothing; leave one of them out.")
