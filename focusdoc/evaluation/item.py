"""One question of a benchmark: a prompt in three parts, and what its answer is scored against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Characters ``start:end`` of a document.
Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One row of a task, ready to be asked.

    The whole prompt is ``before + context + after``. Modes that read a document first (ours) read
    ``before + context`` and take ``after`` as the local context; the others take the prompt as one text.

    Attributes:
        task: the benchmark's name of the task.
        id: names the row within its task.
        before, context, after: the prompt.
        answers: what the prediction is scored against, as in the benchmark's file.
        max_new_tokens: the benchmark's limit for an answer.
        all_classes: the class names of a classification, or None.
        stop: texts that end the answer.
        chat: whether a chat model gets the prompt as a message; else it goes on with the bare text.
        facts: what a report groups by, such as ``{"length": 16384, "depth": 0.5}``.
        places: characters ``start:end`` of `document` where the answer stands, as far as they are known.
    """

    task: str
    id: str
    before: str
    context: str
    after: str
    answers: list[Any]
    max_new_tokens: int
    all_classes: list[str] | None = None
    stop: tuple[str, ...] = ()
    chat: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)
    places: tuple[Span, ...] = ()

    @property
    def document(self) -> str:
        """What is read before the question."""
        return self.before + self.context

    @property
    def prompt(self) -> str:
        """The whole prompt as one text."""
        return self.before + self.context + self.after
