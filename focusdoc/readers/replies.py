"""Replies of a reader: a question, its passages, and what the reader wrote."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field

from focusdoc.config import GenerationConfig
from focusdoc.decoding.answer import TextPiece
from focusdoc.decoding.prompt import Request
from focusdoc.readers.confidence import confidence_of, rank_score_of, signals
from focusdoc.readers.finding import WORDS, Found
from focusdoc.readers.onward import ActiveRetrieval
from focusdoc.readers.passages import Passage, in_order, text_of, windows_in
from focusdoc.readers.reader import (
    ANSWER_INSTRUCTION,
    Judge,
    Messages,
    Reader,
    Reprompting,
    Written,
    drafter_of,
    judging_prompt,
    reading_prompt,
    relay,
)
from focusdoc.readers.windows import words_of


@dataclass(frozen=True, slots=True)
class Reply:
    """What a reader wrote for a question.

    Attributes:
        found: the scored windows for the question.
        passages: the reader's passages, best first.
        agreement: the reader's log-odds that the passages state this reply; None if it is no `Judge`.
        steps: replies to questions that were resolved first.
    """

    question: str
    found: Found
    passages: tuple[Passage, ...]
    text: str
    written: Written
    agreement: float | None
    steps: tuple[Reply, ...] = ()

    @property
    def adds_words(self) -> bool:
        """Whether it has a word that the question does not have; small readers without an answer repeat the question.

        Answers to "Is it this or that?" repeat it too. A reply without any word, such as "0", counts as adding one.
        """
        answer_words, request = words_of([self.text, self.question])
        return not answer_words or not set(answer_words) <= set(request)

    @property
    def signals(self) -> list[float]:
        """The signals, in the order of `focusdoc.readers.confidence.SIGNALS`."""
        return signals_for(
            self.found, self.passages, self.written.likelihood, self.agreement, adds_words=self.adds_words
        )

    @property
    def sources(self) -> list[Passage]:
        """The supporting passages: its own, then those of earlier steps."""
        return [*self.passages, *(passage for step in self.steps for passage in step.passages)]

    @property
    def rank_score(self) -> float:
        """The score that ranks it among drafts."""
        return rank_score_of(self.signals)

    @property
    def confidence(self) -> float:
        """The probability, 0 to 1, that the documents contain the answer."""
        return confidence_of(self.signals)


def signals_for(
    found: Found,
    passages: Sequence[Passage],
    likelihood: float | None,
    agreement: float | None,
    *,
    adds_words: bool = True,
) -> list[float]:
    """The signals of a reply to `passages`, in the order of `focusdoc.readers.confidence.SIGNALS`."""
    words = found.words_peak * float(found.signals[windows_in(found, passages), WORDS].max())
    covered = sum(passage.score for passage in passages)
    return signals(found.look_peak, words, covered, likelihood, agreement, adds_words)


@dataclass(slots=True)
class Session:
    """A reader's work on one request; its replies share memories, settings and conversation.

    Attributes:
        earlier: the conversation before the question, as far as it fits.
        budget: maximum tokens of passages in a prompt, as the reader counts them.
        reader_tokens: total of all prompts.
        read: all passages that the reader got.
        first: time of the answer's first token, by ``time.perf_counter``.
        decode: seconds from there to the last.
    """

    reader: Reader
    request: Request
    earlier: Messages
    budget: int
    reader_tokens: int = 0
    read: list[Passage] = field(default_factory=list)
    first: float = 0.0
    decode: float = 0.0

    def fits(self, passages: Sequence[Passage]) -> bool:
        """Whether these passages fit the budget together."""
        return sum(map(self.reader.count, self.texts(passages))) <= self.budget

    def texts(self, passages: Iterable[Passage]) -> list[str]:
        """The texts of passages."""
        return [text_of(self.request.memories, each) for each in passages]

    def reply(
        self,
        question: str,
        found: Found,
        passages: Sequence[Passage],
        settings: GenerationConfig,
        instruction: str = ANSWER_INSTRUCTION,
        retrieve: Callable[[str], Found] | None = None,
        draft: bool = False,
    ) -> Generator[TextPiece, None, Reply]:
        """Yield a reply as the reader writes it, from `passages` in document order; return it.

        Args:
            instruction: how to answer.
            retrieve: finds windows for a text as the dynamic prompt, to add passages while the reply is written. With
                None, or a reader that is not `Reprompting`, the passages stay the same.
            draft: whether the reader's drafter writes and judges it.

        Raises:
            ReaderError: the reader cannot be reached, or fails.
        """

        def prompt(passages: Sequence[Passage]) -> Messages:
            return reading_prompt(question, self.texts(in_order(passages)), self.earlier, instruction)

        pieces: list[str] = []
        shown, cancel, started_at = list(passages), self.request.cancel, time.perf_counter()
        reader = drafter_of(self.reader) if draft else self.reader
        if retrieve is not None and isinstance(reader, Reprompting):
            retrieval = ActiveRetrieval(question, shown, retrieve, prompt, self.fits)
            writing = reader.write_reprompted(prompt(shown), settings, cancel, retrieval.prompt_for)
        else:
            writing = reader.write(prompt(shown), settings, cancel)
        written = yield from relay(writing, pieces)
        self.reader_tokens += written.prompt_tokens
        self.first, self.decode = started_at + written.first_token, written.decode
        self.read += [each for each in shown if each not in self.read]
        text = "".join(pieces)
        agreement = None
        if isinstance(reader, Judge) and written.finish_reason != "cancelled":
            agreement = reader.yes_log_odds(judging_prompt(question, self.texts(in_order(shown)), text, self.earlier))
        return Reply(question, found, tuple(shown), text, written, agreement)
