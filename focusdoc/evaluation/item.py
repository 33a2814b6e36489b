"""One question of a benchmark, what comes of it, and what gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

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


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one item.

    Attributes:
        prediction: the answer.
        document_tokens, prompt_tokens, new_tokens: what was read, what was asked, what came.
        dropped_tokens: tokens of the prompt that were cut out before the model saw it.
        num_chunks: chunks of the memory; 0 for baselines.
        kv_bytes: keys and values held while answering.
        read_seconds, first_token_seconds, decode_seconds: the time it took.
        passages: characters ``start:end`` of the document that were quoted or looked at, by rank; None where the mode
            has none.
        passage_tokens: what the quoted ones took.
    """

    prediction: str
    document_tokens: int
    prompt_tokens: int
    new_tokens: int
    dropped_tokens: int
    num_chunks: int
    kv_bytes: int
    read_seconds: float
    first_token_seconds: float
    decode_seconds: float
    passages: Sequence[Span] | None = None
    passage_tokens: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As plain values, times apart: they alone differ when a run is repeated."""
        values = asdict(self)
        kept = {name: value for name in ("prediction", "passages") if (value := values.pop(name)) is not None}
        seconds = {name: values.pop(name) for name in list(values) if name.endswith("_seconds")}
        timings = {name.removesuffix("_seconds"): round(value, 3) for name, value in seconds.items()}
        return {**kept, "usage": values, "timings": timings}


class Mode(Protocol):
    """A way to answer items."""

    def describe(self) -> dict[str, Any]:
        """The settings that shape its answers, ready for JSON."""
        ...

    def answer(self, item: Item) -> Outcome:
        """Answer one item, greedily."""
        ...
