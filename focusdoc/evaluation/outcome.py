"""What comes of one item, and what gives it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from focusdoc.evaluation.item import Item, Span


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
