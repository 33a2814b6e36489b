"""Looking again while the answer goes on: what the reader has written runs behind the chunks as the dynamic prompt.

At the ends of sentences the candidates look for the question and what is written of its answer (FocusLLM, section 3.1:
the dynamic prompt ends with the newest tokens). What is new among the passages joins those that the reader has, and it
goes on behind its own words. Only what stands behind the first new passage is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from focusdoc.decoding.attribution import SENTENCE_END
from focusdoc.readers.finding import Found
from focusdoc.readers.passages import Passage, choose_passages, overlaps
from focusdoc.readers.reader import Messages

#: Characters of the answer between two looks, at least.
EVERY = 120
#: Looks while one answer is written, at most: each takes as long as the first.
LOOKS = 3


@dataclass(slots=True)
class Onward:
    """The passages of an answer while it is written.

    Args:
        passages: that the reader began with.
        look: what is found for a text as the dynamic prompt.
        prompt: what the reader is asked with passages.
        fits: whether it may get these passages.
    """

    question: str
    passages: list[Passage]
    look: Callable[[str], Found]
    prompt: Callable[[Sequence[Passage]], Messages]
    fits: Callable[[Sequence[Passage]], bool]
    looks: int = 0
    _looked_at: int = field(default=0, init=False)

    def prompt_for(self, written: str) -> Messages | None:
        """What the reader is to be asked from here on; None where nothing new was found, or it is no time to look."""
        new_text = written[self._looked_at :]
        if self.looks == LOOKS or len(new_text) < EVERY or not SENTENCE_END.search(new_text):
            return None
        self._looked_at, self.looks = len(written), self.looks + 1
        found = self.look(f"{self.question} {written}")
        new = [each for each in choose_passages(found, self.fits) if not overlaps(each, self.passages)]
        while new and not self.fits([*self.passages, *new]):
            new.pop()
        if not new:
            return None
        self.passages += new
        return self.prompt(self.passages)
