"""Active retrieval: finding more passages while the reader writes.

At sentence ends, the question and the answer so far run behind the chunks as the dynamic prompt (FocusLLM, section 3.1:
the dynamic prompt ends with the newest tokens). New passages join those in the reader's prompt, and the reader goes on
after its own words; only the prompt behind the first new passage is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from focusdoc.documents.sentences import SENTENCE_END
from focusdoc.readers.finding import Found
from focusdoc.readers.passages import Passage, choose_passages, overlaps
from focusdoc.readers.reader import Messages

#: Minimum length of the answer, in characters, between two retrievals.
MIN_CHARACTERS = 120
#: Maximum number of retrievals per answer; each takes as long as the first.
MAX_RETRIEVALS = 3


@dataclass(slots=True)
class ActiveRetrieval:
    """The passages of an answer while it is written.

    Args:
        passages: the reader's initial passages.
        retrieve: finds windows for a text as the dynamic prompt.
        prompt: renders the reader's prompt with passages.
        fits: whether passages fit the reader's budget.
    """

    question: str
    passages: list[Passage]
    retrieve: Callable[[str], Found]
    prompt: Callable[[Sequence[Passage]], Messages]
    fits: Callable[[Sequence[Passage]], bool]
    num_retrievals: int = 0
    _scanned: int = field(default=0, init=False)

    def prompt_for(self, written: str) -> Messages | None:
        """The reader's new prompt; None if nothing new was found, or it is too early."""
        new_text = written[self._scanned :]
        if self.num_retrievals == MAX_RETRIEVALS or len(new_text) < MIN_CHARACTERS or not SENTENCE_END.search(new_text):
            return None
        self._scanned, self.num_retrievals = len(written), self.num_retrievals + 1
        found = self.retrieve(f"{self.question} {written}")
        new = [each for each in choose_passages(found, self.fits) if not overlaps(each, self.passages)]
        while new and not self.fits([*self.passages, *new]):
            new.pop()
        if not new:
            return None
        self.passages += new
        return self.prompt(self.passages)
