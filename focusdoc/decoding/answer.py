"""What comes back from the engine: generations, answers, and where they came from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Source:
    """A passage that the answer's candidates looked at.

    Attributes:
        page: number of the page that was looked at, 1 for the first; the passage stands on it.
        start, end: its characters in ``Document.text``.
        text: the passage, ``document.text[start:end]``.
        score: share of the attention paid to all candidates, in 0..1; with a reader, how probable the finder holds it
            that the answer stands there.
        chunk: index of the chunk in its document.
        document: the document's name.
        page_label: the page number as printed on the page, where the document says.
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
    """Tokens of one answer: of the documents behind it, of the question's prompt, and of the answer.

    `encoded_tokens` of the document's tokens were read for this very answer; the memory of the others was there.
    `quoted_tokens` are what passages of the document took in the local context, beside the prompt's own, or in the
    reader's prompt. With a reader `reader_tokens` are what it was given, passages and question, and `completion_tokens`
    what it wrote; all three in its own tokens.
    """

    document_tokens: int
    num_chunks: int
    prompt_tokens: int
    completion_tokens: int
    encoded_tokens: int = 0
    quoted_tokens: int = 0
    reader_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds from the call to the first token, and from the first to the last."""

    first_token: float
    decode: float

    @property
    def total(self) -> float:
        """Seconds in all."""
        return self.first_token + self.decode


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a question over one or more memories.

    Attributes:
        text: the answer, without special tokens and stop strings.
        sources: passages, the most looked at first.
        token_ids: the tokens of the answer.
        finish_reason: ``"stop"`` (end token or stop string), ``"length"`` or ``"cancelled"``.
        warnings: what documents show their readers and their texts lack, each sentence behind a document's name.
        confidence: how probable it is that the documents tell what was asked, 0 to 1; None where nobody knows.
        found: False where they most likely do not; then `text` is the best guess. None where nobody knows.
        log_likelihood: of the tokens, in nats; None where it is not known.
        steps: (question, answer) of what had to be known first.
        chunk_shares: share of the attention that each chunk's candidates got, all memories in order; they sum to 1.
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
        logits: float32 [num_new_tokens, vocab], the logits each token was chosen from, if they were asked for.
    """

    token_ids: list[int]
    logits: Tensor | None
    usage: Usage
    timings: Timings
    finish_reason: FinishReason


class TextPiece(str):
    """A piece of a streamed answer; the last one carries the whole `Answer`, the others None."""

    answer: Answer | None

    def __new__(cls, text: str, answer: Answer | None = None) -> TextPiece:
        """Make a piece of `text`."""
        piece = super().__new__(cls, text)
        piece.answer = answer
        return piece
