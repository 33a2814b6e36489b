"""Temporarily replacing a model's modules during a pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from torch import nn


class Replacement(NamedTuple):
    """A module, and what replaces it.

    Attributes:
        parent, name: the module is the child `name` of `parent`.
        module: its replacement, with the same interface.
    """

    parent: nn.Module
    name: str
    module: nn.Module


@contextmanager
def swap_in(replacements: Sequence[Replacement]) -> Iterator[None]:
    """Replace modules inside the block; the originals are restored at the end.

    If two replacements have the same place, the later one wins.
    """
    own = [replacement.parent.get_submodule(replacement.name) for replacement in replacements]
    try:
        for replacement in replacements:
            # Not by setattr, which would do more than change the parent's child.
            replacement.parent._modules[replacement.name] = replacement.module
        yield
    finally:
        for replacement, module in zip(replacements, own, strict=True):
            replacement.parent._modules[replacement.name] = module
