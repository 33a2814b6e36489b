"""The makers of planted facts: numbers, pass keys, pairs of key and value, and facts in words.

Each draws one `Fact` from a random generator, in one of several wordings, so that an adapter learns to look for what is
asked instead of for one phrase.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable

from focusdoc.training.fact import Fact
from focusdoc.training.vocabulary import ITEMS, NUMBERED, PLACES, digits, namesake, person
from focusdoc.training.word_facts import words_fact

__all__ = ["FACT_MAKERS", "Fact", "distractor", "number_fact", "pair_fact", "passkey_fact", "words_fact"]

#: Share of the distractors that are easily taken for the fact itself.
LOOKALIKES = 0.3


def number_fact(rng: random.Random) -> Fact:
    """A number that belongs to a place or a person."""
    return _number(rng, rng.choice(NUMBERED), rng.choice([rng.choice(PLACES), person(rng)]))


def _number(rng: random.Random, thing: str, owner: str) -> Fact:
    """A number called `thing` that belongs to `owner`."""
    value = digits(rng, rng.choice([3, 4, 5, 6, 6, 6, 7, 8]))
    statement = rng.choice(
        [
            f"The {thing} of {owner} is {value}.",
            f"The {thing} for {owner} is {value}.",
            f"Remember that the {thing} of {owner} is {value}.",
            f"One of the special {thing}s: for {owner} it is {value}.",
            f"{owner} has the {thing} {value}.",
            f"For {owner}, the {thing} is: {value}.",
            f"{value} is the {thing} of {owner}.",
        ]
    )
    questions = (
        f"What is the {thing} of {owner}?",
        f"What is the {thing} for {owner}?",
        f"Which {thing} does {owner} have?",
        f"Tell me the {thing} of {owner}.",
        f"What is the {thing} of {owner}? Answer with the number only.",
        f"What is the special {thing} for {owner} mentioned in the document?",
    )
    openings = (f"The {thing} of {owner} is", f"The {thing} for {owner} is")

    def lookalike(rng: random.Random) -> Fact:
        if rng.random() < 0.5:
            return _number(rng, rng.choice(NUMBERED), owner)
        return _number(rng, thing, rng.choice(PLACES) if owner in PLACES else namesake(rng, owner))

    return Fact("number", statement, questions, value, openings, lookalike)


def passkey_fact(rng: random.Random) -> Fact:
    """The pass key of the well-known test, and its relatives."""
    value = digits(rng, rng.choice([5, 5, 5, 4, 6, 10]))
    thing = rng.choice(
        ["pass key", "pass key", "pass key", "passkey", "secret number", "sequence of digits", "password"]
    )
    statement = rng.choice(
        [
            f"The {thing} is {value}. Remember it. {value} is the {thing}.",
            f"The {thing} is {value}. Remember it. {value} is the {thing}.",
            f"The {thing} is {value}.",
            f"Keep in mind that the {thing} is {value}.",
        ]
    )
    questions = (
        f"What is the {thing}?",
        f"What is the {thing} hidden in the text?",
        f"There is an important {thing} in the document. What is it?",
        f"Find the {thing} and repeat it.",
    )
    return Fact("passkey", statement, questions, value, (f"The {thing} is", f"What is the {thing}? The {thing} is"))


def pair_fact(rng: random.Random) -> Fact:
    """A value under a key, as in a JSON object or a list of settings."""
    return _pair(rng, _identifier(rng), _identifier(rng))


def _pair(rng: random.Random, key: str, value: str) -> Fact:
    """`value` under `key`."""
    statement = rng.choice([f'"{key}": "{value}",', f'"{key}": "{value}",', f"{key}: {value}", f"{key} = {value}"])
    questions = (
        f'What is the value of the key "{key}"?',
        f"Which value belongs to {key}?",
        f'Key: "{key}"\nThe value associated with the specified key is?',
    )

    def lookalike(rng: random.Random) -> Fact:
        if rng.random() < 0.5:
            return _pair(rng, _begun_alike(rng, key), _identifier(rng))
        return _pair(rng, _identifier(rng), _begun_alike(rng, value))

    return Fact("pair", statement, questions, value, (f'"{key}": "', f'Key: "{key}"\nThe value is'), lookalike)


def _identifier(rng: random.Random) -> str:
    """A key or a value."""
    form = rng.random()
    if form < 0.6:
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))
    if form < 0.8:
        return "".join(rng.choice("abcdefghjkmnpqrstuvwxyz0123456789") for _ in range(rng.randint(6, 12)))
    return f"{rng.choice(ITEMS)}-{digits(rng, 4)}"


def _begun_alike(rng: random.Random, text: str) -> str:
    """Another identifier that begins with up to five characters of `text` and has its form."""
    kept = rng.randint(1, 5)
    letters = "".join(sorted(set(text) - {"-"})) + "0123456789"
    return text[:kept] + "".join(letter if letter == "-" else rng.choice(letters) for letter in text[kept:])


#: The makers of planted facts by the name their losses are reported under.
FACT_MAKERS: dict[str, Callable[[random.Random], Fact]] = {
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
