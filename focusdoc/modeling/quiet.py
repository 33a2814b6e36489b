"""Libraries while they load a model: silenced, and their errors as ours."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from focusdoc.errors import ModelNotFoundError, first_line


@contextmanager
def model_errors(name: str) -> Iterator[None]:
    """Turn any exception of transformers about a missing or damaged model into a ModelNotFoundError."""
    try:
        yield
    except Exception as error:
        raise ModelNotFoundError(f"The base model {name!r} cannot be loaded: {first_line(error)}") from error


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Disable transformers' progress bars inside the block."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Disable progress bars and warnings of transformers and huggingface_hub inside the block."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    hub = logging.getLogger("huggingface_hub")
    hub_level = hub.level
    transformers_logging.set_verbosity_error()
    hub.setLevel(logging.ERROR)
    try:
        with no_progress_bars(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hub.setLevel(hub_level)
        transformers_logging.set_verbosity(verbosity)
