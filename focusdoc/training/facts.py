"""Facts to plant in a text, and the questions they answer: generated, seeded, in many forms.

Each maker draws one `Fact` from a random generator. Numbers, keys and words; statements and questions in several
wordings each, so that an adapter learns to look for what is asked instead of for one phrase.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass


def _words(text: str, between: str | None = None) -> tuple[str, ...]:
    return tuple(text.split(between))


FIRST_NAMES = _words(
    "Alice Bruno Carla Dmitri Elena Farid Grace Hiro Ingrid Jonas Keiko Liam Maya Nadia Oscar Priya Quentin Rosa "
    "Stefan Tamar Umar Vera Walter Xenia Yusuf Zoe Agnes Boris Chiara David Edith Felix Greta Hassan Irene Jacob "
    "Katrin Leon Miriam Noah Olga Pablo Ruth Simon Thea Viktor Wanda Amir Bella Conrad Dora Emil Flora Gustav Helen"
)
LAST_NAMES = _words(
    "Abbott Bergmann Castillo Dawson Eriksen Fischer Galloway Haddad Ivanov Jensen Kowalski Laurent Moretti Nakamura "
    "Okafor Petrov Quinn Rossi Santos Tanaka Ulrich Vance Whitfield Yamada Zimmer Ashby Blackwood Carver Dunmore "
    "Ellery Fenwick Granger Holloway Ingram Kessler Lindqvist Marlowe Norwood Osgood Pemberton Radcliffe Sterling "
    "Thorne"
)
PLACES = _words(
    "Oslo Lisbon Cairo Kyoto Lima Prague Tunis Vienna Dublin Havana Geneva Lagos Madrid Nairobi Odessa Perth Quito "
    "Riga Seville Tallinn Utrecht Venice Warsaw Zagreb Antwerp Bergen Cardiff Dresden Exeter Florence Ghent Hobart "
    "Izmir Jaipur Kazan Leipzig Malaga Naples Oxford Porto Rouen Salem Trieste Uppsala Verona Windsor York Zurich "
    "Bristol"
)
COLOURS = _words(
    "red blue green yellow purple orange white black grey brown pink silver golden crimson turquoise violet scarlet "
    "ivory"
)
MONTHS = _words("January February March April May June July August September October November December")
ITEMS = _words(
    "lantern violin compass telescope notebook umbrella typewriter camera clock carpet vase painting bicycle piano "
    "necklace diary sword mirror globe trunk chair kettle boat kite harp bell drum saddle quilt statue"
)
ANIMALS = _words("cat dog parrot horse goat rabbit owl pony tortoise falcon donkey goose hamster raven ferret")
TRADES = _words(
    "baker tailor surgeon blacksmith lawyer gardener carpenter painter librarian miller jeweller fisherman teacher "
    "printer shepherd watchmaker chemist architect sailor weaver"
)
FOODS = _words(
    "plum cake|lentil soup|roast duck|apple pie|pea soup|lemon tart|fried trout|onion bread|rice pudding|goat cheese|"
    "cherry jam|mushroom stew|honey biscuits|baked potatoes|ginger tea",
    between="|",
)
HIDING = _words(
    "under the stairs|in the wine cellar|behind the church organ|in the hollow oak|inside the clock tower|"
    "beneath the third floorboard|in the attic|in the boathouse|behind the fireplace|at the bottom of the well|"
    "in the greenhouse|inside the old piano|in the stable loft|under the stone bridge|in the library",
    between="|",
)
NUMBERED = _words(
    "magic number|access code|secret code|locker number|invoice number|registration number|safe combination|"
    "account number|ticket number|serial number|telephone extension|case number|membership number|badge number|"
    "lottery number|catalogue number|pass code|room code|order number|reference number",
    between="|",
)


@dataclass(frozen=True, slots=True)
class Fact:
    """A statement and the questions it answers.

    Attributes:
        kind: the maker's name, the objective its loss is reported under.
        statement: the text to plant.
        questions: wordings of the question; any may be asked.
        answer: the exact answer.
        completions: openings of a sentence that the answer continues, for prompts without a chat template.
    """

    kind: str
    statement: str
    questions: tuple[str, ...]
    answer: str
    completions: tuple[str, ...] = ()


def digits(rng: random.Random, length: int) -> str:
    """A number of `length` digits that does not begin with 0."""
    return str(rng.randrange(10 ** (length - 1), 10**length))


def person(rng: random.Random) -> str:
    """A first and a last name."""
    return f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}"


def number_fact(rng: random.Random) -> Fact:
    """A number that belongs to a place or a person."""
    thing, owner = rng.choice(NUMBERED), rng.choice([rng.choice(PLACES), person(rng)])
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
    return Fact("number", statement, questions, value, (f"The {thing} of {owner} is", f"The {thing} for {owner} is"))


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

    def name() -> str:
        form = rng.random()
        if form < 0.6:
            return str(uuid.UUID(int=rng.getrandbits(128), version=4))
        if form < 0.8:
            return "".join(rng.choice("abcdefghjkmnpqrstuvwxyz0123456789") for _ in range(rng.randint(6, 12)))
        return f"{rng.choice(ITEMS)}-{digits(rng, 4)}"

    key, value = name(), name()
    statement = rng.choice([f'"{key}": "{value}",', f'"{key}": "{value}",', f"{key}: {value}", f"{key} = {value}"])
    questions = (
        f'What is the value of the key "{key}"?',
        f"Which value belongs to {key}?",
        f'Key: "{key}"\nThe value associated with the specified key is?',
    )
    return Fact("pair", statement, questions, value, (f'"{key}": "', f'Key: "{key}"\nThe value is'))


def _possession(rng: random.Random) -> Fact:
    who, item, place = person(rng), rng.choice(ITEMS), rng.choice(HIDING)
    statement = rng.choice(
        [
            f"{who} hid the {item} {place}.",
            f"Nobody knew that {who} had put the {item} {place}.",
            f"The {item} of {who} was kept {place}.",
        ]
    )
    return Fact(
        "words",
        statement,
        (f"Where is the {item} of {who}?", f"Where did {who} leave the {item}?", f"Where can {who}'s {item} be found?"),
        place[0].upper() + place[1:],
    )


def _birthplace(rng: random.Random) -> Fact:
    who, place = person(rng), rng.choice(PLACES)
    statement = rng.choice(
        [
            f"{who} was born in {place}.",
            f"{who} came into the world in {place}.",
            f"{place} is the birthplace of {who}.",
        ]
    )
    return Fact(
        "words",
        statement,
        (f"Where was {who} born?", f"What is the birthplace of {who}?", f"In which city was {who} born?"),
        place,
    )


def _home(rng: random.Random) -> Fact:
    who, place, trade = person(rng), rng.choice(PLACES), rng.choice(TRADES)
    statement = rng.choice(
        [f"{who} lives in {place} and works as a {trade}.", f"{who}, a {trade} by profession, had settled in {place}."]
    )
    if rng.random() < 0.5:
        return Fact("words", statement, (f"Where does {who} live?", f"Which town is the home of {who}?"), place)
    questions = (f"What does {who} do for a living?", f"What is the profession of {who}?", f"What is {who}'s job?")
    return Fact("words", statement, questions, trade.capitalize())


def _colour(rng: random.Random) -> Fact:
    who, item, colour = person(rng), rng.choice(ITEMS), rng.choice(COLOURS)
    statement = rng.choice(
        [
            f"{who} owned a {colour} {item}.",
            f"The {item} of {who} was {colour}.",
            f"{who} had painted the {item} {colour}.",
        ]
    )
    return Fact(
        "words",
        statement,
        (
            f"What colour is the {item} of {who}?",
            f"What color was {who}'s {item}?",
            f"Which colour did {who}'s {item} have?",
        ),
        colour.capitalize(),
    )


def _date(rng: random.Random) -> Fact:
    who, month, day, year = person(rng), rng.choice(MONTHS), rng.randint(1, 28), rng.randint(1750, 2020)
    date = f"{day} {month} {year}" if rng.random() < 0.5 else f"{month} {day}, {year}"
    event, asked = rng.choice(
        [
            ("married", "get married"),
            ("left for America", "leave for America"),
            ("signed the contract", "sign the contract"),
            ("bought the house", "buy the house"),
            ("opened the shop", "open the shop"),
            ("returned home", "return home"),
        ]
    )
    statement = rng.choice(
        [f"{who} {event} on {date}.", f"On {date} {who} {event}.", f"It was on {date} that {who} {event}."]
    )
    return Fact("words", statement, (f"When did {who} {asked}?", f"On what date did {who} {asked}?"), date)


def _pet(rng: random.Random) -> Fact:
    who, animal, name = person(rng), rng.choice(ANIMALS), rng.choice(FIRST_NAMES)
    while name in who:  # the question would give the answer away
        name = rng.choice(FIRST_NAMES)
    statement = rng.choice(
        [f"{who} had a {animal} called {name}.", f"The {animal} of {who} answered to the name of {name}."]
    )
    questions = (f"What is the name of {who}'s {animal}?", f"What was the {animal} of {who} called?")
    return Fact("words", statement, questions, name)


def _dish(rng: random.Random) -> Fact:
    who, food = person(rng), rng.choice(FOODS)
    statement = rng.choice([f"The favourite dish of {who} was {food}.", f"{who} liked nothing better than {food}."])
    questions = (
        f"What is the favourite dish of {who}?",
        f"What does {who} like to eat most?",
        f"Which food does {who} love?",
    )
    return Fact("words", statement, questions, food.capitalize())


def _relation(rng: random.Random) -> Fact:
    who, other = person(rng), person(rng)
    while other == who:
        other = person(rng)
    verb, asked = rng.choice(
        [
            ("is married to", "Who is {} married to?"),
            ("works for", "Who does {} work for?"),
            ("was taught by", "Who was the teacher of {}?"),
            ("is the cousin of", "Whose cousin is {}?"),
            ("was betrayed by", "Who betrayed {}?"),
            ("sold the farm to", "Who bought the farm of {}?"),
        ]
    )
    return Fact("words", f"{who} {verb} {other}.", (asked.format(who),), other)


_WORDS = (_possession, _birthplace, _home, _colour, _date, _pet, _dish, _relation)


def words_fact(rng: random.Random) -> Fact:
    """A fact in words: a name, place, colour, date, trade or dish, asked in other words than it is told in."""
    return rng.choice(_WORDS)(rng)


#: The makers of planted facts by the name their losses are reported under.
FACT_MAKERS: dict[str, Callable[[random.Random], Fact]] = {
    "number": number_fact,
    "passkey": passkey_fact,
    "pair": pair_fact,
    "words": words_fact,
}
