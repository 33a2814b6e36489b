"""Imports of optional packages, with an error that names the extra to install."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from focusdoc.errors import EvaluationError


def needed(module: str, extra: str) -> Any:
    """Import `module`, a package of the extra called `extra`; EvaluationError if it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fuzzywuzzy recommends another package on every import
            return importlib.import_module(module)
    except ImportError as error:
        raise not_installed(module.partition(".")[0], extra) from error


def not_installed(package: str, extra: str) -> EvaluationError:
    """The error for a package of the extra called `extra` that is not installed."""
    return EvaluationError(f"The package {package} is not installed; run: pip install 'focusdoc[{extra}]'.")
