"""Random facts to plant: numbers, pass keys, key-value pairs and facts in words, each with the questions it answers.

Each takes one of many wordings from ``facts.toml``, so that an adapter learns to retrieve by meaning, not by phrase.
"""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from focusdoc.training.vocabulary import NAMES, SLOTS, digits, namesake, person, read_table

#: Share of the distractors that are easily confused with the fact.
LOOKALIKES = 0.3

Maker = Callable[[random.Random], "Fact"]


@dataclass(frozen=True, slots=True)
class Fact:
    """A statement and the questions it answers.

    Attributes:
        kind: the name in `FACT_MAKERS`, and the objective of the loss.
        statement: the text to plant.
        questions: wordings of the question.
        answer: verbatim from the statement.
        completions: beginnings of a sentence that the answer continues, for prompts without a chat template.
        lookalike: draws another fact that is easily confused with this one, such as one about a namesake.
    """

    kind: str
    statement: str
    questions: tuple[str, ...]
    answer: str
    completions: tuple[str, ...] = ()
    lookalike: Maker | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Kind:
    """The templates of one kind of fact in ``facts.toml``, with slots in braces.

    Attributes:
        told, asked, openings: statements, questions, and beginnings of a sentence that the answer continues.
        answer: the slot that the questions ask for.
    """

    told: Sequence[str]
    asked: Sequence[str]
    openings: Sequence[str] = ()
    answer: str = "value"

    def fact(self, rng: random.Random, kind: str, slots: Mapping[str, str], lookalike: Maker | None = None) -> Fact:
        """A fact with a random statement, its slots filled."""
        statement = rng.choice(self.told).format(**slots)
        questions, openings = (tuple(each.format(**slots) for each in texts) for texts in (self.asked, self.openings))
        return Fact(kind, statement, questions, slots[self.answer], openings, lookalike)


_TABLES = read_table("facts.toml")
_NUMBER, _PASSKEY, _PAIR = (Kind(**_TABLES[name]) for name in ("number", "passkey", "pair"))
#: The kinds of facts in words.
KINDS = tuple(Kind(**table) for table in _TABLES["words"])
#: Templates that frameworks and benchmarks put around a question.
QUESTION_FRAMES: Sequence[str] = _TABLES["framed"]


def number_fact(rng: random.Random) -> Fact:
    """A number of a place or a person."""
    return _number(rng, rng.choice(NAMES["numbered"]), rng.choice([rng.choice(NAMES["places"]), person(rng)]))


def _number(rng: random.Random, thing: str, owner: str) -> Fact:
    """The number called `thing` of `owner`."""
    value = digits(rng, rng.choice([3, 4, 5, 6, 6, 6, 7, 8]))

    def lookalike(rng: random.Random) -> Fact:
        if rng.random() < 0.5:
            return _number(rng, rng.choice(NAMES["numbered"]), owner)
        places = NAMES["places"]
        return _number(rng, thing, rng.choice(places) if owner in places else namesake(rng, owner))

    return _NUMBER.fact(rng, "number", {"thing": thing, "owner": owner, "value": value}, lookalike)


def passkey_fact(rng: random.Random) -> Fact:
    """A pass key, as in the passkey retrieval test, under one of several names."""
    value = digits(rng, rng.choice([5, 5, 5, 4, 6, 10]))
    return _PASSKEY.fact(rng, "passkey", {"value": value, "thing": rng.choice(NAMES["passkeys"])})


def pair_fact(rng: random.Random) -> Fact:
    """A key and its value, as in a JSON object or a list of settings."""
    return _pair(rng, _identifier(rng), _identifier(rng))


def _pair(rng: random.Random, key: str, value: str) -> Fact:
    def lookalike(rng: random.Random) -> Fact:
        if rng.random() < 0.5:
            return _pair(rng, _same_prefix(rng, key), _identifier(rng))
        return _pair(rng, _identifier(rng), _same_prefix(rng, value))

    return _PAIR.fact(rng, "pair", {"key": key, "value": value}, lookalike)


def _identifier(rng: random.Random) -> str:
    """A key or a value."""
    form = rng.random()
    if form < 0.6:
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))
    if form < 0.8:
        return "".join(rng.choice("abcdefghjkmnpqrstuvwxyz0123456789") for _ in range(rng.randint(6, 12)))
    return f"{SLOTS['item'](rng)}-{digits(rng, 4)}"


def _same_prefix(rng: random.Random, text: str) -> str:
    """Another identifier of the form of `text` that shares one to five characters of its beginning."""
    shared = rng.randint(1, 5)
    letters = "".join(sorted(set(text) - {"-"})) + "0123456789"
    return text[:shared] + "".join(letter if letter == "-" else rng.choice(letters) for letter in text[shared:])


def words_fact(rng: random.Random) -> Fact:
    """A fact in words (names, places, colours, dates, reasons); its questions paraphrase the statement."""
    return _words(rng, rng.choice(KINDS), SLOTS)


def _words(rng: random.Random, kind: Kind, slots: Mapping[str, Callable[[random.Random], str]]) -> Fact:
    def lookalike(rng: random.Random) -> Fact:
        return _words(rng, kind, {**slots, "who": lambda rng: namesake(rng, filled["who"])})

    while True:
        filled = {slot: draw(rng) for slot, draw in slots.items()}
        fact = kind.fact(rng, "words", filled, lookalike)
        if fact.answer in fact.statement and not any(_contains(question, fact.answer) for question in fact.questions):
            return fact


def _contains(text: str, phrase: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE) is not None


#: What draws the facts of each objective.
FACT_MAKERS: dict[str, Maker] = {
    "number": number_fact,
    "passkey": passkey_fact,
    "pair": pair_fact,
    "words": words_fact,
}


def distractor(rng: random.Random, fact: Fact) -> Fact:
    """Another fact of the same kind, sometimes a lookalike; it may answer the same question."""
    if fact.lookalike is not None and rng.random() < LOOKALIKES:
        return fact.lookalike(rng)
    return FACT_MAKERS[fact.kind](rng)
