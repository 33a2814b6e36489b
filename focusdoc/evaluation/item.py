"""A benchmark item, its outcome, and the modes that answer items: their interface, names and settings.

Nothing here imports what loads a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from focusdoc.errors import ConfigError

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
        usage = asdict(self)
        row = {"prediction": usage.pop("prediction"), "passages": usage.pop("passages")}
        if self.passages is None:
            del row["passages"]
        timings = {name: round(usage.pop(f"{name}_seconds"), 3) for name in ("read", "first_token", "decode")}
        return {**row, "usage": usage, "timings": timings}


class Mode(ABC):
    """A way to answer items; `facts` are the settings that affect the answers, as JSON values."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts

    @abstractmethod
    def answer(self, item: Item) -> Outcome:
        """Answer one item with greedy decoding."""


#: The modes, described in docs/evaluation.md.
MODES = (
    *("focus", "split", "quoted", "look", "full", "truncated", "tail", "streaming", "paper"),
    *("ask", "read", "bm25", "embedding", "place"),
)
#: The reader name for no reader: only retrieval is measured.
NO_READER = "none"


def _option(default: Any, metavar: str, help: str) -> Any:
    return field(default=default, metadata={"help": help, "panel": "Modes", "metavar": metavar})


@dataclass(frozen=True, kw_only=True)
class ModeSettings:
    """The settings of a mode, besides the model.

    Attributes:
        chunk_size: None for the adapter's (ours) or 2,048 (paper).
        max_tokens: of ours; None or 0 for no limit.
        sinks: tokens that StreamingLLM never drops; its window is ``local_window - sinks``.
        chat: whether prompts are chat messages; None for the benchmark's choice.
        passages, window: of retrieval; the defaults are those of our own passages.
    """

    chunk_size: int | None = _option(None, "TOKENS", "Tokens of a chunk; without it, the adapter's.")
    local_window: int = _option(2048, "TOKENS", "Tokens of the local context; truncated prompts keep as many.")
    max_tokens: int | None = _option(None, "TOKENS", "Truncate longer prompts in the middle; 0 for never.")
    sinks: int = 4
    chat: bool | None = None
    passages: int = _option(8, "N", "For bm25 and embedding: most passages for the reader.")
    window: int = _option(
        400,
        "CHARACTERS",
        "For bm25 and embedding: width of the parts of a long paragraph, before they are widened to sentences.",
    )


def check_modes(names: Sequence[str]) -> list[str]:
    """`names` without duplicates; ConfigError if one is unknown, or there is none."""
    unknown = next((name for name in names if name not in MODES), None)
    if unknown is not None or not names:
        raise ConfigError(f"The mode {unknown or ''!r} is unknown; choose from {', '.join(MODES)}.")
    return list(dict.fromkeys(names))
