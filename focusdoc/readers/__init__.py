"""Readers: models that write answers from the passages that the base model finds."""

from focusdoc.readers.opening import open_reader
from focusdoc.readers.reader import Reader

__all__ = ["Reader", "open_reader"]
