"""The interfaces of the evaluation: a benchmark item, its outcome, and the modes that answer items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

#: Characters ``start:end`` of a document.
Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One row of a task with its prompt, ``before + context + after``.

    Ours reads ``before + context`` into a memory, and ``after`` is the local context; baselines take one text.

    Attributes:
        task: the benchmark's name of the task; `id` is unique within it.
        answers, max_new_tokens: the gold answers and the limit of a new one, as in the benchmark.
        all_classes: the class names of a classification, or None.
        chat: whether the prompt is a chat message; else the model continues the bare text.
        facts: what a report groups by, such as ``{"length": 16384, "depth": 0.5}``.
        places: characters ``start:end`` of `document` with the answer, if known.
    """

    task: str
    id: str
    before: str = ""
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
        """The text before the question."""
        return self.before + self.context

    @property
    def prompt(self) -> str:
        """The whole prompt."""
        return self.before + self.context + self.after


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of one item.

    Attributes:
        document_tokens, prompt_tokens, new_tokens: tokens of the memory, of the prompt and of the answer.
        dropped_tokens: tokens that were truncated from the prompt.
        num_chunks: chunks of the memory; 0 for baselines.
        kv_bytes: KV cache and memory at the end of the answer.
        passages: characters ``start:end`` of the document that were retrieved, by rank; None for modes without.
        passage_tokens: tokens of the quoted passages.
    """

    prediction: str
    document_tokens: int = 0
    prompt_tokens: int
    new_tokens: int
    dropped_tokens: int = 0
    num_chunks: int = 0
    kv_bytes: int = 0
    read_seconds: float = 0.0
    first_token_seconds: float
    decode_seconds: float
    passages: Sequence[Span] | None = None
    passage_tokens: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As plain values, with timings separate, since only they differ between repeated runs."""
        values = asdict(self)
        kept = {name: value for name in ("prediction", "passages") if (value := values.pop(name)) is not None}
        seconds = {name: values.pop(name) for name in list(values) if name.endswith("_seconds")}
        timings = {name.removesuffix("_seconds"): round(value, 3) for name, value in seconds.items()}
        return {**kept, "usage": values, "timings": timings}


class Mode(Protocol):
    """A way to answer items."""

    def describe(self) -> dict[str, Any]:
        """The settings that affect the answers, as JSON values."""

    def answer(self, item: Item) -> Outcome:
        """Answer one item with greedy decoding."""
