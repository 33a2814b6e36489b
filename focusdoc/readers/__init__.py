"""Readers: models that write answers from passages which the candidates of the base model have found."""

from focusdoc.readers.opening import open_reader
from focusdoc.readers.reader import Reader

__all__ = ["Reader", "open_reader"]
