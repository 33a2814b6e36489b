"""What is planted in the chunks of one sample, where, and the questions asked of it.

Planting takes room, and room is what a sample has least of. So a question is often about what stands there already: a
distractor of an earlier fact, another line of a list, another question of the same passage.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from focusdoc.decoding.prompt import encode_text
from focusdoc.training.asking import Question
from focusdoc.training.facts import FACT_MAKERS, FORMS, Fact, distractor

#: Share of what is planted that breaks into a sentence. Notes and tables in a text do, and where a candidate has only
#: ever read facts behind a full stop, it takes a number that stands elsewhere for part of the sentence around it.
_ANYWHERE = 0.5
#: How many distractors stand beside a fact.
DISTRACTORS = (0, 0, 1, 2, 4, 8)
#: Share of the facts that are drawn until the answer stands in front of what it belongs to. That is harder to read:
#: mostly the answer follows the words of the question, and here the text around does.
ANSWER_FIRST = 0.4
#: Share of the questions that are about something planted before, where there is any left to ask about.
AGAIN = 0.65
#: Share of the pairs that stand in a chunk full of pairs.
LISTED = 0.7

#: Passages from files, and what may be asked of each: question and answer.
PassageQuestions = Mapping[str, Sequence[tuple[str, str]]]


class Soil:
    """The chunks of a sample while facts are planted in them; nothing planted is ever cut or overwritten.

    Args:
        chunks: token ids of the text, chunk by chunk, all of one length.
    """

    def __init__(self, chunks: list[list[int]], rng: random.Random) -> None:
        self._chunks = chunks
        self._rng = rng
        self._planted: list[list[list[int]]] = [[] for _ in chunks]
        self._room = [len(chunk) for chunk in chunks]

    def plant(self, statement: list[int]) -> bool:
        """Give `statement` a place in a random chunk; False if no chunk tried has room."""
        for _ in range(8):
            index = self._rng.randrange(len(self._chunks))
            if len(statement) <= self._room[index]:
                self._planted[index].append(statement)
                self._room[index] -= len(statement)
                return True
        return False

    def fill(self, make: Callable[[int], list[int]]) -> bool:
        """Replace the text of a random untouched chunk by ``make(its length)``; False if none tried is untouched."""
        for _ in range(8):
            index = self._rng.randrange(len(self._chunks))
            if self._room[index] == len(self._chunks[index]):
                self._chunks[index] = make(len(self._chunks[index]))
                self._room[index] = 0
                return True
        return False

    def chunks(self, sentence_ends: frozenset[int]) -> list[list[int]]:
        """The chunks with everything planted, mostly at sentence ends where there is one near."""
        grown = []
        for text, planted in zip(self._chunks, self._planted, strict=True):
            length = len(text)
            kept = text[: length - sum(map(len, planted))]
            places = sorted(self._place(kept, sentence_ends) for _ in planted)
            chunk: list[int] = []
            for begin, end, statement in zip([0, *places], places, planted, strict=False):
                chunk += kept[begin:end] + statement
            grown.append(chunk + kept[places[-1] if places else 0 :])
        return grown

    def _place(self, kept: list[int], sentence_ends: frozenset[int]) -> int:
        """Where in `kept` something is planted: in front of this token."""
        place = self._rng.randint(0, len(kept))
        return place if self._rng.random() < _ANYWHERE else _near_end(kept, place, sentence_ends)


def _near_end(tokens: list[int], place: int, sentence_ends: frozenset[int]) -> int:
    """`place`, moved back to the end of a sentence if one ends within 40 tokens."""
    return next((at for at in range(place, max(0, place - 40), -1) if tokens[at - 1] in sentence_ends), place)


def by_passage(questions: Sequence[tuple[str, str, str]]) -> PassageQuestions:
    """(context, question, answer) triples by their context; of equal ones one stays."""
    found: dict[str, dict[tuple[str, str], None]] = defaultdict(dict)
    for context, question, answer in questions:
        found[context][question, answer] = None
    return {context: tuple(asked) for context, asked in found.items()}


class Planting:
    """What is planted in the chunks of one sample.

    Args:
        soil: the chunks.
        questions: (context, question, answer) triples to draw passages from.
        passages: the same by passage.

    Attributes:
        told: the wordings of all questions that something planted answers; none has two answers.
        planted: the statements of all facts.
    """

    def __init__(
        self,
        tokenizer: Any,
        soil: Soil,
        rng: random.Random,
        questions: Sequence[tuple[str, str, str]] = (),
        passages: PassageQuestions | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._soil = soil
        self._rng = rng
        self._questions = questions
        self._passages = passages or {}
        # What is planted and not yet asked about.
        self._facts_left: dict[str, list[Fact]] = defaultdict(list)
        self._passages_left: list[tuple[str, str, str]] = []
        self.told: set[str] = set()
        self.planted: list[str] = []

    def ask_fact(self, kind: str) -> Question | None:
        """A question about a fact of `kind`, planted for it or before; None if there is neither a fact nor room."""
        left = self._facts_left[kind]
        if not left or self._rng.random() >= AGAIN:
            fact = self._drawn(kind)
            if not self._known(fact) and self._plant_among_others(fact):
                return self._about(fact)
        return self._about(_taken(self._rng, left)) if left else None

    def ask_passage(self) -> Question | None:
        """A question about a passage from the files, planted whole for it or before; None if there is neither."""
        left = self._passages_left
        if not left or self._rng.random() >= AGAIN:
            for _ in range(16):
                context, question, answer = self._rng.choice(self._questions)
                if self._soil.plant(encode_text(self._tokenizer, f"\n\n{context}\n\n")):
                    others = self._passages.get(context, ())
                    left += [(context, *other) for other in others if other[0] != question]
                    return self._asked(question, answer, "files", context)
        if not left:
            return None
        context, question, answer = _taken(self._rng, left)
        return self._asked(question, answer, "files", context)

    def _drawn(self, kind: str) -> Fact:
        """A fact of `kind`, maybe one whose statement begins with the answer."""
        fact = FACT_MAKERS[kind](self._rng)
        if self._rng.random() < ANSWER_FIRST:
            for _ in range(16):  # some kinds have none
                if fact.statement.startswith(fact.answer):
                    break
                fact = FACT_MAKERS[kind](self._rng)
        return fact

    def _known(self, fact: Fact) -> bool:
        """Whether something planted answers a question of `fact` already."""
        return not self.told.isdisjoint(_wordings(fact))

    def _plant_among_others(self, fact: Fact) -> bool:
        """Plant `fact`, which is asked for, and distractors of its kind, which may be asked for later."""
        if fact.kind == "pair" and self._rng.random() < LISTED:
            placed = self._soil.fill(lambda length: self._list_of_pairs(length, fact))
        else:
            placed = self._soil.plant(self._statement(fact))
        if not placed:
            return False
        self._keep(fact)
        if fact.kind != "passkey":
            for _ in range(self._rng.choice(DISTRACTORS)):
                other = distractor(self._rng, fact)
                if not self._known(other) and self._soil.plant(self._statement(other)):
                    self._keep(other)
                    self._facts_left[other.kind].append(other)
        return True

    def _keep(self, fact: Fact) -> None:
        self.told |= _wordings(fact)
        self.planted.append(fact.statement)

    def _statement(self, fact: Fact) -> list[int]:
        """Tokens of the fact's statement, set off from the text around it."""
        # The text around brings a space of its own mostly; whoever puts something in may add one.
        before, behind = self._rng.choice([(" ", ""), (" ", " "), ("\n", "\n"), ("\n\n", "\n\n")])
        return encode_text(self._tokenizer, before + fact.statement + behind)

    def _list_of_pairs(self, length: int, fact: Fact) -> list[int]:
        """`length` tokens full of pairs, `fact` among them; any of the others may be asked for later."""
        lines = [fact.statement]
        size = len(encode_text(self._tokenizer, fact.statement)) + 1
        known = _wordings(fact)
        while True:
            other = distractor(self._rng, fact)
            size += len(encode_text(self._tokenizer, other.statement)) + 1
            if size > length - 4:
                break
            if not self._known(other) and known.isdisjoint(_wordings(other)):
                known |= _wordings(other)
                lines.insert(self._rng.randint(0, len(lines)), other.statement)
                self._keep(other)
                self._facts_left[other.kind].append(other)
        ids = encode_text(self._tokenizer, "\n".join(lines) + "\n")[:length]
        return ids + (encode_text(self._tokenizer, " -") * length)[: length - len(ids)]

    def _about(self, fact: Fact) -> Question:
        """Ask for `fact` in one of the formats that `ask` and the framework classes use."""
        rng = self._rng
        if not fact.completions or rng.random() >= 0.2:
            asked = self._asked(rng.choice(fact.questions), fact.answer, fact.kind, fact.statement)
            return replace(asked, wordings=_wordings(fact))
        opening = rng.choice(fact.completions)
        targets = encode_text(self._tokenizer, ("" if opening.endswith('"') else " ") + fact.answer)
        at = max(0, fact.statement.find(fact.answer))
        return Question(opening, tuple(targets), None, fact.kind, fact.statement, at, _wordings(fact))

    def _asked(self, question: str, answer: str, kind: str, planted: str) -> Question:
        rng, tokenizer = self._rng, self._tokenizer
        if rng.random() < 0.2:
            question = rng.choice(FORMS).format(question)
        plain = rng.random() < 0.25 or not getattr(tokenizer, "chat_template", None)
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        targets = encode_text(tokenizer, (" " if plain else "") + answer) + end
        style: Literal["plain", "chat"] = "plain" if plain else "chat"
        return Question(question, tuple(targets), style, kind, planted, max(0, planted.find(answer)))


def _wordings(fact: Fact) -> frozenset[str]:
    """What no other fact may answer: the wordings of its question; of pass keys there may be but one."""
    return frozenset({"passkey"} if fact.kind == "passkey" else fact.questions)


def _taken(rng: random.Random, left: list[Any]) -> Any:
    """One of `left`, which loses it."""
    return left.pop(rng.randrange(len(left)))
