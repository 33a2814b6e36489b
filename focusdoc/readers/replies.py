"""One reply of a reader: a question, the passages that it got for it, and what it wrote."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field

from focusdoc.config import GenerationConfig
from focusdoc.decoding.answer import TextPiece
from focusdoc.decoding.prompt import Asked
from focusdoc.readers.confidence import confidence_of, promise_of, signals
from focusdoc.readers.finding import WORDS, Found
from focusdoc.readers.onward import Onward
from focusdoc.readers.passages import Passage, in_order, text_of, windows_in
from focusdoc.readers.reader import (
    WISH,
    Judge,
    Messages,
    Reader,
    WritesOn,
    Written,
    judging_prompt,
    reading_prompt,
    relay,
)
from focusdoc.readers.windows import words_of


@dataclass(frozen=True, slots=True)
class Reply:
    """What a reader wrote about a question.

    Attributes:
        found: what the question made of all windows.
        passages: those that the reader got, the best one first.
        agreement: the logarithm of the odds that they state this reply, as the reader judges it; None where it is no
            judge.
        steps: replies to what had to be known first.
    """

    question: str
    found: Found
    passages: tuple[Passage, ...]
    text: str
    written: Written
    agreement: float | None
    steps: tuple[Reply, ...] = ()

    @property
    def tells_news(self) -> bool:
        """Whether it has a word that the question has not; a small reader that finds no answer says the question again.

        So does an answer to "Is it this or that?", and one without any word, such as "0", tells something too.
        """
        told, asked = words_of([self.text, self.question])
        return not told or not set(told) <= set(asked)

    @property
    def signals(self) -> list[float]:
        """What speaks for it, in the order of `focusdoc.readers.confidence.SIGNALS`."""
        return signals_for(
            self.found, self.passages, self.written.likelihood, self.agreement, tells_news=self.tells_news
        )

    @property
    def sources(self) -> list[Passage]:
        """The passages that it stands on: its own, then those of the steps before."""
        return [*self.passages, *(passage for step in self.steps for passage in step.passages)]

    @property
    def promise(self) -> float:
        """How much speaks for it against others."""
        return promise_of(self.signals)

    @property
    def confidence(self) -> float:
        """The probability, 0 to 1, that the documents tell what was asked."""
        return confidence_of(self.signals)


def signals_for(
    found: Found,
    passages: Sequence[Passage],
    likelihood: float | None,
    agreement: float | None,
    *,
    tells_news: bool = True,
) -> list[float]:
    """What speaks for a reply to `passages`, in the order of `focusdoc.readers.confidence.SIGNALS`."""
    words = found.words_peak * float(found.signals[windows_in(found, passages), WORDS].max())
    covered = sum(passage.score for passage in passages)
    return signals(found.look_peak, words, covered, likelihood, agreement, tells_news)


@dataclass(slots=True)
class Desk:
    """Where a reader works on what was asked: its replies share the memories, the settings and the conversation.

    Attributes:
        earlier: the conversation before the question, as far as it fits.
        budget: tokens of passages that the reader gets at once, at most, as it counts them.
        reader_tokens: of all prompts that it got.
        read: the passages that it got.
        first: when the answer's first piece came, by ``time.perf_counter``.
        decode: seconds from there to the last.
    """

    reader: Reader
    asked: Asked
    earlier: Messages
    budget: int
    reader_tokens: int = 0
    read: list[Passage] = field(default_factory=list)
    first: float = 0.0
    decode: float = 0.0

    def fits(self, passages: Sequence[Passage]) -> bool:
        """Whether the reader may get these passages at once."""
        return sum(map(self.reader.count, self.texts(passages))) <= self.budget

    def texts(self, passages: Iterable[Passage]) -> list[str]:
        """The words of passages."""
        return [text_of(self.asked.memories, each) for each in passages]

    def reply(
        self,
        question: str,
        found: Found,
        passages: Sequence[Passage],
        settings: GenerationConfig,
        wish: str = WISH,
        look: Callable[[str], Found] | None = None,
    ) -> Generator[TextPiece, None, Reply]:
        """Yield a reply as the reader writes it, from `passages` in the order of the documents; returns all of it.

        Args:
            wish: how the reader is to answer.
            look: what is found for a text as the dynamic prompt, so that passages join while the reply goes on; None
                where there is none, and for a reader whose prompt stays as it is.

        Raises:
            ReaderError: the reader cannot be reached, or breaks off.
        """

        def prompt(passages: Sequence[Passage]) -> Messages:
            return reading_prompt(question, self.texts(in_order(passages)), self.earlier, wish)

        pieces: list[str] = []
        given, cancel, begun = list(passages), self.asked.cancel, time.perf_counter()
        if look is not None and isinstance(self.reader, WritesOn):
            onward = Onward(question, given, look, prompt, self.fits)
            writing = self.reader.write_on(prompt(given), settings, cancel, onward.prompt_for)
        else:
            writing = self.reader.write(prompt(given), settings, cancel)
        written = yield from relay(writing, pieces)
        self.reader_tokens += written.prompt_tokens
        self.first, self.decode = begun + written.first_token, written.decode
        self.read += [each for each in given if each not in self.read]
        text = "".join(pieces)
        agreement = None
        if isinstance(self.reader, Judge) and written.finish_reason != "cancelled":
            agreement = self.reader.agrees(judging_prompt(question, self.texts(in_order(given)), text, self.earlier))
        return Reply(question, found, tuple(given), text, written, agreement)
