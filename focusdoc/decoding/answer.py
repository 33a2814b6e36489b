"""The engine's results: generations, answers and their sources."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Source:
    """A passage that supports the answer.

    Attributes:
        page: number of its page, starting at 1.
        start, end: its characters in ``Document.text``.
        text: the passage, ``document.text[start:end]``.
        score: its chunk's share of the attention paid to all candidates, in 0..1; with a reader, the probability that
            the answer is in it.
        chunk: index of the chunk in its document.
        document: the document's name.
        page_label: the printed page number, if the document has labels.
    """

    page: int
    start: int
    end: int
    text: str
    score: float
    chunk: int
    document: str
    page_label: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one answer: documents, prompt and answer.

    `encoded_tokens` of the documents' tokens were read for this answer; the memory of the others existed already.
    `quoted_tokens` counts passages quoted in the local context or in the reader's prompt. With a reader,
    `reader_tokens` counts its prompts, `completion_tokens` what it wrote; all three in the reader's own tokens.
    `lost_workers` counts processes of a cluster that were lost and replaced while the answer was written.
    """

    document_tokens: int
    num_chunks: int
    prompt_tokens: int
    completion_tokens: int
    encoded_tokens: int = 0
    quoted_tokens: int = 0
    reader_tokens: int = 0
    lost_workers: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds from the call to the first token, and from the first to the last."""

    first_token: float
    decode: float

    @property
    def total(self) -> float:
        """Total seconds."""
        return self.first_token + self.decode


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a question over one or more memories.

    Attributes:
        text: the answer, without special tokens and stop strings.
        sources: the supporting passages, best first.
        token_ids: the tokens of the answer.
        finish_reason: ``"stop"`` (end token or stop string), ``"length"`` or ``"cancelled"``.
        warnings: what a document shows but its text lacks, one sentence each, starting with the document's name.
        confidence: the probability, 0 to 1, that the documents contain the answer; None if unknown.
        found: False if they probably do not, in which case `text` is a best guess; None if unknown.
        log_likelihood: of the tokens, in nats; None if unknown.
        steps: (question, answer) pairs that were resolved first.
        chunk_shares: each chunk's share of the attention, over all memories in order; with a reader, the probability
            that the answer is in it. They sum to 1.
    """

    text: str
    sources: tuple[Source, ...]
    usage: Usage
    timings: Timings
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    chunk_shares: tuple[float, ...] = ()
    warnings: tuple[str, ...] = ()
    confidence: float | None = None
    found: bool | None = None
    log_likelihood: float | None = None
    steps: tuple[tuple[str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        values = asdict(self)
        values["timings"]["total"] = self.timings.total
        return values


@dataclass(frozen=True, eq=False, slots=True)
class Generation:
    """Raw output of `FocusEngine.generate`.

    Attributes:
        token_ids: the new tokens.
        logits: float32 [num_new_tokens, vocab], the logits each token was chosen from; None unless requested.
    """

    token_ids: list[int]
    logits: Tensor | None
    usage: Usage
    timings: Timings
    finish_reason: FinishReason


class TextPiece(str):
    """A piece of a streamed answer; `answer` is set on the last piece only."""

    answer: Answer | None

    def __new__(cls, text: str, answer: Answer | None = None) -> TextPiece:
        """Create a piece of `text`."""
        piece = super().__new__(cls, text)
        piece.answer = answer
        return piece
