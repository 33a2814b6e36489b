"""Questions of training prompts, with or without quoted passages in front of them.

At inference, the passages that the candidates attended to are put into the local context
(`focusdoc.decoding.quoting`). In training nothing has been attended to yet, so passages are sampled: mostly the one
with the answer, and others beside it. They imitate the errors of retrieval: a passage may start anywhere in the planted
text, so that a neighbouring line may precede the right one, and distractors often come from the same page, so that
copying the first name or line is wrong.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from focusdoc.config import QUOTE_TOKENS
from focusdoc.decoding.prompt import GAP, encode_text, question_prompt, with_passages
from focusdoc.decoding.quoting import REACH, WIDTH
from focusdoc.documents.sentences import whole_sentences
from focusdoc.training.dense import TrainingPrompt

#: How often no passage has the answer, so that it has to come from the candidates.
_NO_ANSWER = 0.12
#: Most passages of a question.
_MAX_PASSAGES = 5
#: Where distractors come from: near the answer, other planted text, or anywhere.
_DISTRACTORS = {"near": 0.35, "planted": 0.4, "anywhere": 0.25}
#: How far from the answer a near distractor may be, to either side, in widths of a passage.
_PAGE = 4


@dataclass(frozen=True, slots=True)
class Question:
    """A question about something planted.

    Attributes:
        targets: tokens of the answer, and the end token.
        style: the prompt format; None for bare text to continue.
        kind: the objective it counts for.
        planted, answer_start: the text with the answer, and the character at which that starts.
        wordings: all wordings of the question; no chunk may have another answer to any of them.
    """

    text: str
    targets: tuple[int, ...]
    style: Literal["chat", "plain"] | None
    kind: str
    planted: str
    answer_start: int
    wordings: frozenset[str] = frozenset()

    def prompt(self, tokenizer: Any, quoted: str = "") -> list[int]:
        """Token ids of the prompt, up to the answer."""
        if self.style is None:
            return encode_text(tokenizer, with_passages(self.text, quoted))
        return question_prompt(tokenizer, self.text, self.style, quoted)

    def to_training_prompt(self, tokenizer: Any, quoted: str = "") -> TrainingPrompt:
        """The question as the dynamic prompt, and as the local context with the quoted passages in front of it."""
        return TrainingPrompt(
            (*self.prompt(tokenizer), *self.targets),
            len(self.targets),
            self.kind,
            questions=self.wordings,
            local_ids=tuple(self.prompt(tokenizer, quoted)) if quoted else (),
        )


class Passages:
    """Samples passages from the chunks of a training sample (token ids), in which the texts `planted` are."""

    def __init__(self, chunks: Sequence[Sequence[int]], planted: Sequence[str], tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._texts = [tokenizer.decode(chunk, clean_up_tokenization_spaces=False) for chunk in chunks]
        # `WIDTH` and `REACH` in characters, for each chunk.
        chars_per_token = [len(text) / len(chunk) for text, chunk in zip(self._texts, chunks, strict=True)]
        self._widths = [round(WIDTH * ratio) for ratio in chars_per_token]
        self._reaches = [round(REACH * ratio) for ratio in chars_per_token]
        self._planted = planted

    def draw(self, rng: random.Random, question: Question) -> str:
        """Passages for `question` as one text, in the order of the chunks; empty if there is none."""
        answer = self._locate(question.planted, question.answer_start)
        points: list[tuple[int, int] | None] = []
        if answer and rng.random() >= _NO_ANSWER:
            # A point in the planted text; the passage around it includes the start of the answer.
            index, start = answer
            half, first = self._widths[index] // 2, start - question.answer_start
            last = first + len(question.planted)
            points.append((index, rng.randint(max(first, start - half), min(last, start + half))))
        for _ in range(rng.randint(0 if points else 1, _MAX_PASSAGES - 1)):
            points.append(self._distractor_point(rng, question, answer if points else None))
        quoted = ""
        for count in range(1, len(points) + 1):
            longer = GAP.join(self._passages_around(sorted(filter(None, points[:count]))))
            if len(encode_text(self._tokenizer, longer)) > QUOTE_TOKENS:
                break
            quoted = longer
        return quoted

    def _locate(self, planted: str, offset: int) -> tuple[int, int] | None:
        """Chunk index and character of `planted` plus `offset`; None if no chunk has it."""
        starts = ((index, text.find(planted)) for index, text in enumerate(self._texts))
        return next(((index, start + offset) for index, start in starts if start >= 0), None)

    def _distractor_point(
        self, rng: random.Random, question: Question, answer: tuple[int, int] | None
    ) -> tuple[int, int] | None:
        """A point for another passage, possibly near `answer`."""
        kind = rng.choices(list(_DISTRACTORS), list(_DISTRACTORS.values()))[0]
        if kind == "near" and answer is not None:
            index, start = answer
            page = _PAGE * self._widths[index]
            return index, rng.randint(max(0, start - page), min(len(self._texts[index]), start + page))
        if kind == "planted" and self._planted:
            other = rng.choice(self._planted)
            return None if other == question.planted else self._locate(other, rng.randrange(len(other)))
        index = rng.randrange(len(self._texts))
        return index, rng.randrange(len(self._texts[index]) or 1)

    def _passages_around(self, points: Sequence[tuple[int, int]]) -> list[str]:
        """The passages around `points`; passages close to each other are merged, as at inference."""
        spans: list[tuple[int, int, int]] = []
        for index, point in points:
            text, half = self._texts[index], self._widths[index] // 2
            start, end = max(0, point - half), min(len(text), point + half)
            if spans and spans[-1][0] == index and start <= spans[-1][2] + self._reaches[index]:
                start = spans.pop()[1]
            spans.append((index, start, end))
        widened = ((self._texts[index], whole_sentences(self._texts[index], *span)) for index, *span in spans)
        return [text[start:end] for text, (start, end) in widened if start < end]
