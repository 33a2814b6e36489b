"""Questions of training prompts, with and without passages of the chunks in front of them.

At use, the passages that the candidates looked at stand in the local context (`focusdoc.decoding.quoting`). In training
nothing has been looked at yet, so the passages are drawn: mostly the one that holds the answer, and others beside it.
They are drawn as looks fall: anywhere in what was planted, so that a neighbour's line may stand before the right one,
and the others often on the same page, so that it is wrong to take the first name or line.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from focusdoc.config import QUOTE_TOKENS
from focusdoc.decoding.attribution import whole_sentences
from focusdoc.decoding.prompt import GAP, encode_text, question_prompt, with_passages
from focusdoc.decoding.quoting import REACH, WIDTH
from focusdoc.training.dense import TrainingPrompt

#: How often the answer is in none of the passages, so that the candidates alone must tell it.
_ABSENT = 0.12
#: How many passages there are, at most, and how many of the others are on the page of the answer, tell something of the
#: kind that was planted, or come from anywhere.
_MOST_PASSAGES = 5
_OTHERS = {"near": 0.35, "planted": 0.4, "anywhere": 0.25}
#: Widths of a passage that the page of the answer reaches, to either side.
_PAGE = 4


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
            return encode_text(tokenizer, with_passages(self.text, quoted))
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
        #: Characters of `WIDTH` and of `REACH` tokens, in each chunk.
        letters = [len(text) / len(chunk) for text, chunk in zip(self._texts, chunks, strict=True)]
        self._widths = [round(WIDTH * each) for each in letters]
        self._reaches = [round(REACH * each) for each in letters]
        self._planted = planted

    def draw(self, rng: random.Random, question: Question) -> str:
        """A text of passages for `question`, in the order of the chunks; empty where nothing is found."""
        answer = self._place(question.planted, question.at)
        points: list[tuple[int, int] | None] = []
        if answer and rng.random() >= _ABSENT:
            points.append(self._looked(rng, question, answer))
        for _ in range(rng.randint(0 if points else 1, _MOST_PASSAGES - 1)):
            points.append(self._elsewhere(rng, question, answer if points else None))
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

    def _looked(self, rng: random.Random, question: Question, answer: tuple[int, int]) -> tuple[int, int]:
        """A point in what was planted; a passage around it holds the beginning of the answer."""
        index, place = answer
        half = self._widths[index] // 2
        first, last = place - question.at, place - question.at + len(question.planted)
        return index, rng.randint(max(first, place - half), min(last, place + half))

    def _elsewhere(
        self, rng: random.Random, question: Question, answer: tuple[int, int] | None
    ) -> tuple[int, int] | None:
        """A point of another passage; near the `answer` if one is given."""
        kind = rng.choices(list(_OTHERS), list(_OTHERS.values()))[0]
        if kind == "near" and answer is not None:
            index, place = answer
            page = _PAGE * self._widths[index]
            return index, rng.randint(max(0, place - page), min(len(self._texts[index]), place + page))
        if kind == "planted" and self._planted:
            other = rng.choice(self._planted)
            return None if other == question.planted else self._place(other, rng.randrange(len(other)))
        index = rng.randrange(len(self._texts))
        return index, rng.randrange(len(self._texts[index]) or 1)

    def _cut(self, points: Sequence[tuple[int, int]]) -> list[str]:
        """The passages around `points`; what lies closely between two of them joins them, as at use."""
        spans: list[tuple[int, int, int]] = []
        for index, place in points:
            text, half = self._texts[index], self._widths[index] // 2
            start, end = max(0, place - half), min(len(text), place + half)
            if spans and spans[-1][0] == index and start <= spans[-1][2] + self._reaches[index]:
                start = spans.pop()[1]
            spans.append((index, start, end))
        passages: list[str] = []
        for index, start, end in spans:
            start, end = whole_sentences(self._texts[index], start, end)
            passages += [self._texts[index][start:end]] if start < end else []
        return passages
