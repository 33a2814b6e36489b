"""Questions of training prompts, with and without passages of the chunks in front of them.

At use, the passages that the candidates looked at stand in the local context (`focusdoc.decoding.quoting`). In training
nothing has been looked at yet, so the passages are drawn: mostly the one that holds the answer, and others beside it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from focusdoc.config import QUOTE_TOKENS
from focusdoc.decoding.attribution import whole_sentences
from focusdoc.decoding.prompt import encode_text, question_prompt, quoted_before
from focusdoc.decoding.quoting import GAP, WIDTH
from focusdoc.training.dense import TrainingPrompt

#: How often the answer is in none of the passages, so that the candidates alone must tell it.
_ABSENT = 0.12
#: How many passages there are, at most, and how many of the others tell something of the kind that was planted.
_MOST_PASSAGES = 5
_PLANTED = 0.6


@dataclass(frozen=True, slots=True)
class Question:
    """A question about something planted.

    Attributes:
        text: its words.
        targets: tokens of the answer, and the end token.
        style: the prompt format; None for bare text that is to be gone on with.
        kind: the objective it counts for.
        planted: the text that holds the answer. at: where in it the answer begins.
        wordings: of the question; no chunk may hold another answer to one of them.
    """

    text: str
    targets: tuple[int, ...]
    style: Literal["chat", "plain"] | None
    kind: str
    planted: str
    at: int
    wordings: frozenset[str] = frozenset()

    def prompt(self, tokenizer: Any, quoted: str = "") -> list[int]:
        """Token ids up to where the answer begins."""
        if self.style is None:
            return encode_text(tokenizer, quoted_before(self.text, quoted))
        return question_prompt(tokenizer, self.text, self.style, quoted)

    def asked(self, tokenizer: Any, quoted: str = "") -> TrainingPrompt:
        """The question behind every chunk, and in the local context with a text of passages in front of it."""
        return TrainingPrompt(
            (*self.prompt(tokenizer), *self.targets),
            len(self.targets),
            self.kind,
            questions=self.wordings,
            local_ids=tuple(self.prompt(tokenizer, quoted)) if quoted else (),
        )


class Passages:
    """Passages of a sample's chunks.

    Args:
        chunks: token ids, with everything planted.
        planted: all texts that were planted.
    """

    def __init__(self, chunks: Sequence[Sequence[int]], planted: Sequence[str], tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._texts = [tokenizer.decode(chunk, clean_up_tokenization_spaces=False) for chunk in chunks]
        #: Characters of `WIDTH` tokens, in each chunk.
        self._widths = [WIDTH * len(text) // len(chunk) for text, chunk in zip(self._texts, chunks, strict=True)]
        self._planted = planted

    def draw(self, rng: random.Random, question: Question) -> str:
        """A text of passages for `question`, in the order of the chunks; empty where nothing is found."""
        points = [self._place(question.planted, question.at)] if rng.random() >= _ABSENT else []
        for _ in range(rng.randint(0 if points else 1, _MOST_PASSAGES - 1)):
            points.append(self._elsewhere(rng, question))
        quoted = ""
        for count in range(1, len(points) + 1):
            more = GAP.join(self._cut(sorted(filter(None, points[:count]))))
            if len(encode_text(self._tokenizer, more)) > QUOTE_TOKENS:
                break
            quoted = more
        return quoted

    def _place(self, planted: str, at: int) -> tuple[int, int] | None:
        """Chunk and character of something planted."""
        found = ((index, text.find(planted)) for index, text in enumerate(self._texts))
        return next(((index, place + at) for index, place in found if place >= 0), None)

    def _elsewhere(self, rng: random.Random, question: Question) -> tuple[int, int] | None:
        if self._planted and rng.random() < _PLANTED:
            other = rng.choice(self._planted)
            return None if other == question.planted else self._place(other, rng.randrange(len(other)))
        index = rng.randrange(len(self._texts))
        return index, rng.randrange(len(self._texts[index]) or 1)

    def _cut(self, points: Sequence[tuple[int, int]]) -> list[str]:
        """The passages around `points`, joined where they touch."""
        spans: list[tuple[int, int, int]] = []
        for index, place in points:
            text, half = self._texts[index], self._widths[index] // 2
            start, end = max(0, place - half), min(len(text), place + half)
            if spans and spans[-1][0] == index and start <= spans[-1][2]:
                start = spans.pop()[1]
            spans.append((index, start, end))
        passages: list[str] = []
        for index, start, end in spans:
            start, end = whole_sentences(self._texts[index], start, end)
            passages += [self._texts[index][start:end]] if start < end else []
        return passages
