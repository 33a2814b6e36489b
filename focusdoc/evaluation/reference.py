"""The paper's own figures, shown beside ours; a figure that is not at hand is left empty, never guessed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from focusdoc.errors import EvaluationError


@dataclass(frozen=True)
class Reference:
    """Figures by benchmark and by task or length.

    Attributes:
        source: the column's name.
        figures: ``{"infinitebench": {"kv_retrieval": 12.4}, "passkey": {"4096": 100.0}, ...}``.
    """

    source: str
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def of(self, benchmark: str, name: object) -> float | None:
        """The figure for a task or a length, or None."""
        return self.figures.get(benchmark, {}).get(str(name))


def load_reference(path: Path | None = None) -> Reference:
    """The figures of the paper, or those of a JSON file of the same form.

    Raises:
        EvaluationError: the file cannot be read, or is of another form.
    """
    try:
        text = path.read_text(encoding="utf-8") if path else _shipped()
        values: dict[str, Any] = json.loads(text)
        source = str(values.pop("source"))
        return Reference(source, {name: {k: float(v) for k, v in table.items()} for name, table in values.items()})
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise EvaluationError(
            f'The reference {path} is no JSON of the form {{"source": ..., "longbench": {{"qasper": 1.0}}}} ({error}).'
        ) from error


def _shipped() -> str:
    return files("focusdoc.evaluation").joinpath("paper.json").read_text(encoding="utf-8")
