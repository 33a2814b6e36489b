"""Modules that take the place of a model's own for the time of a pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from torch import nn


class Place(NamedTuple):
    """Where a module hangs, and what may stand there in its stead.

    Attributes:
        parent, name: the module is the child `name` of `parent`.
        stand_in: maps as the module does.
    """

    parent: nn.Module
    name: str
    stand_in: nn.Module


@contextmanager
def standing_in(places: Sequence[Place]) -> Iterator[None]:
    """The stand-ins in the places of the model's own modules, which come back at the end of the block.

    Of two for one place, the later one stands there.
    """
    own = [place.parent.get_submodule(place.name) for place in places]
    try:
        for place in places:
            # Not by setattr: the parent's list of children is all that is touched.
            place.parent._modules[place.name] = place.stand_in
        yield
    finally:
        for place, module in zip(places, own, strict=True):
            place.parent._modules[place.name] = module
