"""Planting facts and passages in the chunks of a sample, and drawing questions about them.

Chunks have little room for planted text. So a question is often about what is planted already: a distractor of an
earlier fact, another line of a list, another question of the same passage.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from focusdoc.decoding.prompt import encode_text
from focusdoc.training.asking import Question
from focusdoc.training.facts import FACT_MAKERS, QUESTION_FRAMES, Fact, distractor

#: Share of planted text that interrupts a sentence, as notes and tables do. A candidate trained only on facts after a
#: full stop takes a number elsewhere for part of the sentence around it.
_MID_SENTENCE = 0.5
#: Numbers of distractors of a fact, drawn uniformly.
DISTRACTORS = (0, 0, 1, 2, 4, 8)
#: Share of the facts that are redrawn until the statement starts with the answer. These are harder to read, since the
#: answer does not follow the words of the question.
ANSWER_FIRST = 0.4
#: Share of the questions that are about something planted earlier, if anything is left to ask about.
REUSED = 0.65
#: Share of the pairs that are planted in a chunk full of pairs.
LISTED = 0.7

#: (question, answer) pairs by passage.
PassageQuestions = Mapping[str, Sequence[tuple[str, str]]]


class ChunkBuilder:
    """Builds a sample's chunks, all of one length, with planted text, which is never truncated or overwritten."""

    def __init__(self, chunks: list[list[int]], rng: random.Random) -> None:
        self._chunks = chunks
        self._rng = rng
        self._planted: list[list[list[int]]] = [[] for _ in chunks]
        self._room = [len(chunk) for chunk in chunks]

    def plant(self, statement: list[int]) -> bool:
        """Plant `statement` in a random chunk; False if none of 8 tried has room."""
        for _ in range(8):
            index = self._rng.randrange(len(self._chunks))
            if len(statement) <= self._room[index]:
                self._planted[index].append(statement)
                self._room[index] -= len(statement)
                return True
        return False

    def fill(self, make: Callable[[int], list[int]]) -> bool:
        """Replace the text of a random unused chunk by ``make(length)``; False if none of 8 tried is unused."""
        for _ in range(8):
            index = self._rng.randrange(len(self._chunks))
            if self._room[index] == len(self._chunks[index]):
                self._chunks[index] = make(len(self._chunks[index]))
                self._room[index] = 0
                return True
        return False

    def build(self, sentence_ends: frozenset[int]) -> list[list[int]]:
        """The chunks with the planted text, at sentence ends or anywhere; the end of the original text makes room."""
        chunks = []
        for text, planted in zip(self._chunks, self._planted, strict=True):
            kept = text[: len(text) - sum(map(len, planted))]
            positions = sorted(self._position(kept, sentence_ends) for _ in planted)
            chunk: list[int] = []
            for begin, end, statement in zip([0, *positions], positions, planted, strict=False):
                chunk += kept[begin:end] + statement
            chunks.append(chunk + kept[positions[-1] if positions else 0 :])
        return chunks

    def _position(self, tokens: list[int], sentence_ends: frozenset[int]) -> int:
        """A random index to insert planted text at, mostly at an end of a sentence within 40 tokens."""
        position = self._rng.randint(0, len(tokens))
        if self._rng.random() < _MID_SENTENCE:
            return position
        candidates = range(position, max(0, position - 40), -1)
        return next((index for index in candidates if tokens[index - 1] in sentence_ends), position)


def group_by_passage(questions: Sequence[tuple[str, str, str]]) -> PassageQuestions:
    """(context, question, answer) triples grouped by context, without duplicates."""
    groups: dict[str, dict[tuple[str, str], None]] = defaultdict(dict)
    for context, question, answer in questions:
        groups[context][question, answer] = None
    return {context: tuple(pairs) for context, pairs in groups.items()}


@dataclass(slots=True)
class Planting:
    """Plants facts and passages in the chunks of one sample, and draws questions about them.

    `answered` has the wordings of all questions with a planted answer, none with two; `planted` the statements of
    facts.
    """

    tokenizer: Any
    builder: ChunkBuilder
    rng: random.Random
    questions: Sequence[tuple[str, str, str]] = ()
    passages: PassageQuestions = field(default_factory=dict)
    answered: set[str] = field(default_factory=set, init=False)
    planted: list[str] = field(default_factory=list, init=False)
    # Planted and not asked about yet.
    _facts_left: dict[str, list[Fact]] = field(default_factory=lambda: defaultdict(list), init=False)
    _passages_left: list[tuple[str, str, str]] = field(default_factory=list, init=False)

    def ask_fact(self, kind: str) -> Question | None:
        """A question about a fact of `kind`, planted now or earlier; None if there is neither a fact nor room."""
        left = self._facts_left[kind]
        if not left or self.rng.random() >= REUSED:
            fact = self._draw_fact(kind)
            if not self._is_answered(fact) and self._plant_with_distractors(fact):
                return self._question_about(fact)
        return self._question_about(left.pop(self.rng.randrange(len(left)))) if left else None

    def ask_passage(self) -> Question | None:
        """A question about a passage from the files, planted now or earlier; None if there is neither one nor room."""
        left = self._passages_left
        if not left or self.rng.random() >= REUSED:
            for _ in range(16):
                context, question, answer = self.rng.choice(self.questions)
                if self.builder.plant(encode_text(self.tokenizer, f"\n\n{context}\n\n")):
                    others = self.passages.get(context, ())
                    left += [(context, *other) for other in others if other[0] != question]
                    return self._question(question, answer, "files", context)
        if not left:
            return None
        context, question, answer = left.pop(self.rng.randrange(len(left)))
        return self._question(question, answer, "files", context)

    def _draw_fact(self, kind: str) -> Fact:
        """A fact of `kind`, sometimes one whose statement starts with the answer."""
        fact = FACT_MAKERS[kind](self.rng)
        if self.rng.random() < ANSWER_FIRST:
            for _ in range(16):  # some kinds have no such statement
                if fact.statement.startswith(fact.answer):
                    break
                fact = FACT_MAKERS[kind](self.rng)
        return fact

    def _is_answered(self, fact: Fact) -> bool:
        """Whether a planted text already answers a question of `fact`."""
        return not self.answered.isdisjoint(_wordings(fact))

    def _plant_with_distractors(self, fact: Fact) -> bool:
        """Plant `fact` and distractors of its kind, which may be asked about later; False if there is no room."""
        if fact.kind == "pair" and self.rng.random() < LISTED:
            placed = self.builder.fill(lambda length: self._list_of_pairs(length, fact))
        else:
            placed = self.builder.plant(self._statement(fact))
        if placed:
            self._record(fact)
            for _ in range(0 if fact.kind == "passkey" else self.rng.choice(DISTRACTORS)):
                other = distractor(self.rng, fact)
                if not self._is_answered(other) and self.builder.plant(self._statement(other)):
                    self._record(other, to_ask=True)
        return placed

    def _record(self, fact: Fact, *, to_ask: bool = False) -> None:
        self.answered |= _wordings(fact)
        self.planted.append(fact.statement)
        if to_ask:
            self._facts_left[fact.kind].append(fact)

    def _statement(self, fact: Fact) -> list[int]:
        """Tokens of the fact's statement, with white space around it."""
        # The surrounding text mostly has a space of its own; real insertions may add one.
        before, behind = self.rng.choice([(" ", ""), (" ", " "), ("\n", "\n"), ("\n\n", "\n\n")])
        return encode_text(self.tokenizer, before + fact.statement + behind)

    def _list_of_pairs(self, length: int, fact: Fact) -> list[int]:
        """`length` tokens of pairs, `fact` among them; the others may be asked about later."""
        lines = [fact.statement]
        size = len(encode_text(self.tokenizer, fact.statement)) + 1
        while True:
            other = distractor(self.rng, fact)
            size += len(encode_text(self.tokenizer, other.statement)) + 1
            if size > length - 4:
                break
            if not self._is_answered(other) and _wordings(fact).isdisjoint(_wordings(other)):
                lines.insert(self.rng.randint(0, len(lines)), other.statement)
                self._record(other, to_ask=True)
        ids = encode_text(self.tokenizer, "\n".join(lines) + "\n")[:length]
        return ids + (encode_text(self.tokenizer, " -") * length)[: length - len(ids)]

    def _question_about(self, fact: Fact) -> Question:
        """A question about `fact` in a random format: as `ask` and the framework classes prompt, or a completion."""
        rng = self.rng
        if not fact.completions or rng.random() >= 0.2:
            question = self._question(rng.choice(fact.questions), fact.answer, fact.kind, fact.statement)
            return replace(question, wordings=_wordings(fact))
        opening = rng.choice(fact.completions)
        targets = encode_text(self.tokenizer, ("" if opening.endswith('"') else " ") + fact.answer)
        answer_start = max(0, fact.statement.find(fact.answer))
        return Question(opening, tuple(targets), None, fact.kind, fact.statement, answer_start, _wordings(fact))

    def _question(self, question: str, answer: str, kind: str, planted: str) -> Question:
        rng, tokenizer = self.rng, self.tokenizer
        if rng.random() < 0.2:
            question = rng.choice(QUESTION_FRAMES).format(question)
        plain = rng.random() < 0.25 or not getattr(tokenizer, "chat_template", None)
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        targets = encode_text(tokenizer, (" " if plain else "") + answer) + end
        style: Literal["plain", "chat"] = "plain" if plain else "chat"
        return Question(question, tuple(targets), style, kind, planted, max(0, planted.find(answer)))


def _wordings(fact: Fact) -> frozenset[str]:
    """The questions that no other fact may answer; one key for all pass keys, since a sample has only one."""
    return frozenset({"passkey"} if fact.kind == "passkey" else fact.questions)
