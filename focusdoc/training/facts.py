"""Facts to plant: numbers, pass keys, pairs of key and value, and facts in words, each with the questions it answers.

Each is drawn from a random generator and told in one of the wordings of ``facts.toml``, so that an adapter learns to
look for what is asked instead of for one phrase.
"""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from focusdoc.training.vocabulary import NAMES, SLOTS, digits, namesake, person, read_table

#: Share of the distractors that are easily taken for the fact itself.
LOOKALIKES = 0.3

Maker = Callable[[random.Random], "Fact"]


@dataclass(frozen=True, slots=True)
class Fact:
    """A statement and the questions it answers.

    Attributes:
        kind: the maker's name, the objective its loss is reported under.
        statement: the text to plant.
        questions: wordings of the question; any may be asked.
        answer: as the statement puts it, to the letter.
        completions: openings of a sentence that the answer continues, for prompts without a chat template.
        lookalike: draws another fact that is easily taken for this one, such as one about a namesake.
    """

    kind: str
    statement: str
    questions: tuple[str, ...]
    answer: str
    completions: tuple[str, ...] = ()
    lookalike: Maker | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Kind:
    """How a kind of fact is told and asked, with slots in braces.

    Attributes:
        told, asked, openings: statements, questions, and openings of a sentence that the answer continues.
        answer: the slot that the questions ask for.
    """

    told: Sequence[str]
    asked: Sequence[str]
    openings: Sequence[str] = ()
    answer: str = "value"

    def fact(self, rng: random.Random, kind: str, slots: Mapping[str, str], lookalike: Maker | None = None) -> Fact:
        """A fact in one of the wordings, its slots filled."""
        told = rng.choice(self.told).format(**slots)
        asked, openings = (tuple(each.format(**slots) for each in texts) for texts in (self.asked, self.openings))
        return Fact(kind, told, asked, slots[self.answer], openings, lookalike)


_TABLES = read_table("facts.toml")
_NUMBER, _PASSKEY, _PAIR = (Kind(**_TABLES[name]) for name in ("number", "passkey", "pair"))
#: The kinds of facts in words.
KINDS = tuple(Kind(**table) for table in _TABLES["words"])
#: What frameworks and benchmarks put around a question once the document before it has become memory.
FORMS: Sequence[str] = _TABLES["framed"]


def number_fact(rng: random.Random) -> Fact:
    """A number that belongs to a place or a person."""
    return _number(rng, rng.choice(NAMES["numbered"]), rng.choice([rng.choice(NAMES["places"]), person(rng)]))


def _number(rng: random.Random, thing: str, owner: str) -> Fact:
    """A number called `thing` that belongs to `owner`."""
    value = digits(rng, rng.choice([3, 4, 5, 6, 6, 6, 7, 8]))

    def lookalike(rng: random.Random) -> Fact:
        if rng.random() < 0.5:
            return _number(rng, rng.choice(NAMES["numbered"]), owner)
        places = NAMES["places"]
        return _number(rng, thing, rng.choice(places) if owner in places else namesake(rng, owner))

    return _NUMBER.fact(rng, "number", {"thing": thing, "owner": owner, "value": value}, lookalike)


def passkey_fact(rng: random.Random) -> Fact:
    """The pass key of the well-known test, and its relatives."""
    value = digits(rng, rng.choice([5, 5, 5, 4, 6, 10]))
    return _PASSKEY.fact(rng, "passkey", {"value": value, "thing": rng.choice(NAMES["passkeys"])})


def pair_fact(rng: random.Random) -> Fact:
    """A value under a key, as in a JSON object or a list of settings."""
    return _pair(rng, _identifier(rng), _identifier(rng))


def _pair(rng: random.Random, key: str, value: str) -> Fact:
    """`value` under `key`."""

    def lookalike(rng: random.Random) -> Fact:
        if rng.random() < 0.5:
            return _pair(rng, _begun_alike(rng, key), _identifier(rng))
        return _pair(rng, _identifier(rng), _begun_alike(rng, value))

    return _PAIR.fact(rng, "pair", {"key": key, "value": value}, lookalike)


def _identifier(rng: random.Random) -> str:
    """A key or a value."""
    form = rng.random()
    if form < 0.6:
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))
    if form < 0.8:
        return "".join(rng.choice("abcdefghjkmnpqrstuvwxyz0123456789") for _ in range(rng.randint(6, 12)))
    return f"{SLOTS['item'](rng)}-{digits(rng, 4)}"


def _begun_alike(rng: random.Random, text: str) -> str:
    """Another identifier that begins with up to five characters of `text` and has its form."""
    kept = rng.randint(1, 5)
    letters = "".join(sorted(set(text) - {"-"})) + "0123456789"
    return text[:kept] + "".join(letter if letter == "-" else rng.choice(letters) for letter in text[kept:])


def words_fact(rng: random.Random) -> Fact:
    """A fact in words: names, places, colours, dates, reasons, each asked in other words than it is told in."""
    return _words(rng, rng.choice(KINDS), SLOTS)


def _words(rng: random.Random, kind: Kind, slots: Mapping[str, Callable[[random.Random], str]]) -> Fact:
    """A fact of one kind, its slots filled by `slots`."""

    def lookalike(rng: random.Random) -> Fact:
        return _words(rng, kind, {**slots, "who": lambda rng: namesake(rng, filled["who"])})

    while True:
        filled = {slot: draw(rng) for slot, draw in slots.items()}
        fact = kind.fact(rng, "words", filled, lookalike)
        if fact.answer in fact.statement and not any(_holds(question, fact.answer) for question in fact.questions):
            return fact


def _holds(text: str, phrase: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE) is not None


#: The makers of planted facts by the name their losses are reported under.
FACT_MAKERS: dict[str, Maker] = {
    "number": number_fact,
    "passkey": passkey_fact,
    "pair": pair_fact,
    "words": words_fact,
}


def distractor(rng: random.Random, fact: Fact) -> Fact:
    """Another fact of the kind of `fact`, sometimes one easily taken for it; it may answer the same question."""
    if fact.lookalike is not None and rng.random() < LOOKALIKES:
        return fact.lookalike(rng)
    return FACT_MAKERS[fact.kind](rng)
