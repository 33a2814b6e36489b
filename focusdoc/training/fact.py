"""A fact to plant in a text, and the questions it answers."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Fact:
    """A statement and the questions it answers.

    Attributes:
        kind: the maker's name, the objective its loss is reported under.
        statement: the text to plant.
        questions: wordings of the question; any may be asked.
        answer: as the statement puts it, to the letter.
        completions: openings of a sentence that the answer continues, for prompts without a chat template.
        lookalike: draws another fact that is easily taken for this one, such as one about a namesake.
    """

    kind: str
    statement: str
    questions: tuple[str, ...]
    answer: str
    completions: tuple[str, ...] = ()
    lookalike: Callable[[random.Random], Fact] | None = field(default=None, compare=False, repr=False)
