"""Random names, places, dates and other slot values of generated facts, from the words of ``words.toml``."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def read_table(name: str) -> Any:
    """Load a TOML file of this folder."""
    return tomllib.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))


_TABLES: Mapping[str, Mapping[str, list[str]]] = read_table("words.toml")
NAMES, THINGS = _TABLES["names"], _TABLES["things"]


def digits(rng: random.Random, length: int) -> str:
    """A number of `length` digits without a leading 0."""
    return str(rng.randrange(10 ** (length - 1), 10**length))


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


def coined(rng: random.Random) -> str:
    """An invented name, which can be copied but not guessed."""
    return "".join(rng.choices(NAMES["syllables"], k=rng.choice([2, 2, 3]))).capitalize()


def _called(rng: random.Random) -> str:
    return coined(rng) if rng.random() < 0.3 else rng.choice(NAMES["first_names"])


def _house(rng: random.Random) -> str:
    return f"{coined(rng)} {rng.choice(NAMES['estates'])}"


def _place(rng: random.Random) -> str:
    return coined(rng) if rng.random() < 0.33 else rng.choice(NAMES["places"])


def _date(rng: random.Random) -> str:
    """A date in one of the usual formats."""
    month, day, year = rng.choice(NAMES["months"]), rng.randint(1, 28), rng.randint(1750, 2020)
    ordinal = f"{day}{'th' if 4 <= day <= 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"
    return rng.choice(NAMES["dates"]).format(day=day, month=month, year=year, ordinal=ordinal)


def _title(rng: random.Random) -> str:
    """The title of a book."""
    thing, other = (item.capitalize() for item in rng.sample(THINGS["item"], 2))
    colour = rng.choice(THINGS["colour"]).capitalize()
    place, name = rng.choice(NAMES["places"]), coined(rng)
    return rng.choice(NAMES["titles"]).format(thing=thing, other=other, colour=colour, place=place, coined=name)


def _age(rng: random.Random) -> str:
    return rng.choice([str(rng.randint(17, 94)), f"{rng.randint(17, 94)} years"])


def _price(rng: random.Random) -> str:
    return f"{rng.randint(2, 900)} {rng.choice(NAMES['currencies'])}"


def _hour(rng: random.Random) -> str:
    hour, half = rng.randint(1, 11), rng.choice(NAMES["halves"])
    return rng.choice(NAMES["hours"]).format(hour=hour, half=half)


def _secret(rng: random.Random) -> str:
    return f"{SLOTS['colour'](rng)} {SLOTS['animal'](rng)}"


def _any_of(words: list[str]) -> Callable[[random.Random], str]:
    return lambda rng: rng.choice(words)


#: The generator of each slot of a fact in words, in the order of the draws.
SLOTS: Mapping[str, Callable[[random.Random], str]] = {
    "who": person,
    "other": person,
    "name": _called,
    "house": _house,
    "place": _place,
    "date": _date,
    "title": _title,
    **{slot: _any_of(words) for slot, words in THINGS.items()},
    "age": _age,
    "price": _price,
    "hour": _hour,
    "secret": _secret,
}
