"""Random facts to plant: numbers, pass keys, key-value pairs and facts in words, each with the questions it answers.

Each takes one of many wordings from ``facts.toml``, so that an adapter learns to retrieve by meaning, not by phrase.
Names, places, dates and other slot values are drawn from ``words.toml``.
"""

from __future__ import annotations

import random
import re
import tomllib
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

#: Share of the distractors that are easily confused with the fact.
LOOKALIKES = 0.3

Maker = Callable[[random.Random], "Fact"]
Draw = Callable[[random.Random], str]


@dataclass(frozen=True, slots=True)
class Fact:
    """A statement and the questions it answers.

    Attributes:
        kind: the name in `FACT_MAKERS`, and the objective of the loss.
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
    """The templates of one kind of fact in ``facts.toml``, with slots in braces; `answer` is the slot that is asked
    for.

    They are statements, questions, and beginnings of a sentence that the answer continues.
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


_TEMPLATES, _WORDS = (
    tomllib.loads(Path(__file__).with_name(name).read_text(encoding="utf-8")) for name in ("facts.toml", "words.toml")
)
_NUMBER, _PASSKEY, _PAIR = (Kind(**_TEMPLATES[name]) for name in ("number", "passkey", "pair"))
#: The kinds of facts in words.
KINDS = tuple(Kind(**table) for table in _TEMPLATES["words"])
#: Templates that frameworks and benchmarks put around a question.
QUESTION_FRAMES: Sequence[str] = _TEMPLATES["framed"]
NAMES: Mapping[str, list[str]] = _WORDS["names"]
THINGS: Mapping[str, list[str]] = _WORDS["things"]


def digits(rng: random.Random, length: int) -> str:
    """A number of `length` digits without a leading 0."""
    return str(rng.randrange(10 ** (length - 1), 10**length))


def coined(rng: random.Random) -> str:
    """An invented name, which can be copied but not guessed."""
    return "".join(rng.choices(NAMES["syllables"], k=rng.choice([2, 2, 3]))).capitalize()


def person(rng: random.Random) -> str:
    """A first and a last name; half of the last names are invented."""
    first = rng.choice(NAMES["first_names"])
    return f"{first} {coined(rng) if rng.random() < 0.5 else rng.choice(NAMES['last_names'])}"


def namesake(rng: random.Random, name: str) -> str:
    """Another person with the first or the last name of `name`."""
    first, last = name.split(" ", 1)
    if rng.random() < 0.5:
        return f"{first} {person(rng).split(' ', 1)[1]}"
    return f"{rng.choice(NAMES['first_names'])} {last}"


def _date(rng: random.Random) -> str:
    month, day, year = rng.choice(NAMES["months"]), rng.randint(1, 28), rng.randint(1750, 2020)
    ordinal = f"{day}{'th' if 4 <= day <= 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"
    return rng.choice(NAMES["dates"]).format(day=day, month=month, year=year, ordinal=ordinal)


def _title(rng: random.Random) -> str:
    thing, other = (item.capitalize() for item in rng.sample(THINGS["item"], 2))
    colour = rng.choice(THINGS["colour"]).capitalize()
    place, name = rng.choice(NAMES["places"]), coined(rng)
    return rng.choice(NAMES["titles"]).format(thing=thing, other=other, colour=colour, place=place, coined=name)


def _hour(rng: random.Random) -> str:
    hour, half = rng.randint(1, 11), rng.choice(NAMES["halves"])
    return rng.choice(NAMES["hours"]).format(hour=hour, half=half)


#: The generator of each slot of a fact in words, in the order of the draws.
SLOTS: Mapping[str, Draw] = {
    "who": person,
    "other": person,
    "name": lambda rng: coined(rng) if rng.random() < 0.3 else rng.choice(NAMES["first_names"]),
    "house": lambda rng: f"{coined(rng)} {rng.choice(NAMES['estates'])}",
    "place": lambda rng: coined(rng) if rng.random() < 0.33 else rng.choice(NAMES["places"]),
    "date": _date,
    "title": _title,
    **{slot: partial(random.Random.choice, seq=words) for slot, words in THINGS.items()},
    "age": lambda rng: rng.choice([str(rng.randint(17, 94)), f"{rng.randint(17, 94)} years"]),
    "price": lambda rng: f"{rng.randint(2, 900)} {rng.choice(NAMES['currencies'])}",
    "hour": _hour,
    "secret": lambda rng: f"{rng.choice(THINGS['colour'])} {rng.choice(THINGS['animal'])}",
}


def number_fact(rng: random.Random, thing: str = "", owner: str = "") -> Fact:
    """A number called `thing` of a place or a person; what is not given is random."""
    thing = thing or rng.choice(NAMES["numbered"])
    owner = owner or rng.choice([rng.choice(NAMES["places"]), person(rng)])
    value = digits(rng, rng.choice([3, 4, 5, 6, 6, 6, 7, 8]))

    def lookalike(rng: random.Random) -> Fact:
        if rng.random() < 0.5:
            return number_fact(rng, owner=owner)
        places = NAMES["places"]
        return number_fact(rng, thing, rng.choice(places) if owner in places else namesake(rng, owner))

    return _NUMBER.fact(rng, "number", {"thing": thing, "owner": owner, "value": value}, lookalike)


def passkey_fact(rng: random.Random) -> Fact:
    """A pass key, as in the passkey retrieval test, under one of several names."""
    value = digits(rng, rng.choice([5, 5, 5, 4, 6, 10]))
    return _PASSKEY.fact(rng, "passkey", {"value": value, "thing": rng.choice(NAMES["passkeys"])})


def pair_fact(rng: random.Random, key: str = "", value: str = "") -> Fact:
    """A key and its value, as in a JSON object or a list of settings; what is not given is random."""
    key, value = key or _identifier(rng), value or _identifier(rng)

    def lookalike(rng: random.Random) -> Fact:
        if rng.random() < 0.5:
            return pair_fact(rng, _same_prefix(rng, key))
        return pair_fact(rng, _identifier(rng), _same_prefix(rng, value))

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


def words_fact(rng: random.Random, kind: Kind | None = None, slots: Mapping[str, Draw] = SLOTS) -> Fact:
    """A fact in words (names, places, colours, dates, reasons); its questions paraphrase the statement."""
    kind = kind or rng.choice(KINDS)

    def lookalike(rng: random.Random) -> Fact:
        return words_fact(rng, kind, {**slots, "who": lambda rng: namesake(rng, filled["who"])})

    while True:
        filled = {slot: draw(rng) for slot, draw in slots.items()}
        fact = kind.fact(rng, "words", filled, lookalike)
        answer = re.compile(rf"(?<!\w){re.escape(fact.answer)}(?!\w)", re.IGNORECASE)
        if fact.answer in fact.statement and not any(map(answer.search, fact.questions)):
            return fact


#: What draws the facts of each objective.
FACT_MAKERS: dict[str, Maker] = {"number": number_fact, "passkey": passkey_fact, "pair": pair_fact, "words": words_fact}


def distractor(rng: random.Random, fact: Fact) -> Fact:
    """Another fact of the same kind, sometimes a lookalike; it may answer the same question."""
    if fact.lookalike is not None and rng.random() < LOOKALIKES:
        return fact.lookalike(rng)
    return FACT_MAKERS[fact.kind](rng)
