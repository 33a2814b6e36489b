"""Opening the reader that a setting names."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

from focusdoc.errors import ConfigError
from focusdoc.memory.plan import free_bytes
from focusdoc.modeling.adapter_files import SHIPPED_FOLDER
from focusdoc.modeling.base import BaseModel, load_base, resolve_device
from focusdoc.modeling.catalogue import DEFAULT_READER, known_model
from focusdoc.modeling.installed import is_installed
from focusdoc.modeling.lora import CONFIG_FILE, Lora, load_lora
from focusdoc.readers.endpoint import EndpointReader
from focusdoc.readers.local import LocalReader
from focusdoc.readers.reader import Reader
from focusdoc.storage import expanded
from focusdoc.terminal import in_bytes

_log = logging.getLogger(__name__)
#: Environment variable with the default reader's name; "none" for no reader.
READER_VARIABLE = "FOCUSDOC_READER"
#: The catalogue's reader is used if this multiple of its weights is free: documents and passages need memory too.
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
        reader: a `Reader`, the URL of an OpenAI-compatible endpoint, anything `load_base` accepts, a folder of LoRA
            weights in PEFT's format (their base model reads, and drafts with them), a `BaseModel` (a transformers
            model with its tokenizer), "auto" for `default_reader`, or None.
        reader_model: the model name at the endpoint.
        device, dtype: see `focusdoc.modeling.base.load_base`.

    Raises:
        ModelNotFoundError, UnsupportedModelError: as `load_base`. AdapterError: the LoRA weights are damaged or
            another model's. ConfigError: the model has no tokenizer or no chat
            template, or `reader_model` is given without an endpoint.
    """
    if isinstance(reader, str) and reader.startswith(("http://", "https://")):
        return EndpointReader(reader, reader_model)
    if reader_model is not None:
        raise ConfigError(f"reader_model is {reader_model!r}, but reader= names no endpoint; leave it out.")
    if isinstance(reader, str) and reader == "auto":
        reader, reason = default_reader(device)
        if reason:
            _log.warning("The small model that finds the passages writes the answers too, poorly: %s.", reason)
    if reader is None or isinstance(reader, Reader):
        return reader
    lora = _reading_lora(reader)
    if lora is not None and known_model(reader) is None:
        reader = lora.base_model
    base = reader if isinstance(reader, BaseModel) else load_base(reader, device=device, dtype=dtype, few_rows=True)
    if base.tokenizer is None:
        raise ConfigError(
            f"The reader {base.name} came without a tokenizer; pass focusdoc.modeling.base.BaseModel(model, tokenizer)."
        )
    if not getattr(base.tokenizer, "chat_template", None):
        raise ConfigError(f"The reader {base.name} has no chat template; choose one that was trained for instructions.")
    return LocalReader(base, lora)


def _reading_lora(reader: object) -> Lora | None:
    """The LoRA weights that a reader's name or folder brings, for its drafts."""
    known = known_model(reader)
    if known is not None:
        return None if known.reading is None else load_lora(SHIPPED_FOLDER / known.reading)
    folder = expanded(reader) if isinstance(reader, str | Path) else None
    return load_lora(folder) if folder is not None and (folder / CONFIG_FILE).is_file() else None


def default_reader(device: str = "auto") -> tuple[str | None, str]:
    """The default reader: the one named in ``FOCUSDOC_READER``, or else the catalogue's.

    Returns:
        Its name and ""; or None and the reason why the catalogue's cannot be used, as the end of a sentence.
    """
    if named := os.environ.get(READER_VARIABLE):
        return (None if named == "none" else named), ""
    known = known_model(DEFAULT_READER)
    assert known is not None  # the default is in the catalogue
    if not is_installed(known):
        return None, f"{known.install_command} brings {known.name} ({in_bytes(known.num_bytes)})"
    free = free_bytes(resolve_device(device))
    if free < known.converted_bytes * READER_ROOM:
        return None, f"{in_bytes(free)} of free memory are too few for {known.name}"
    return known.name, ""
