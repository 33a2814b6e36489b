"""Facts in words: names, places, colours, dates, reasons, each asked in other words than it is told in.

A kind of fact is a row of a table: how it may be told, how it may be asked, and which slot holds the answer. Answers
stand as the statement puts them, to the letter, for copying is what an adapter has to learn.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from focusdoc.training import vocabulary as words
from focusdoc.training.fact import Fact


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fact.

    Attributes:
        told, asked: statements and questions with slots in braces.
        answer: the slot that the questions ask for.
    """

    told: tuple[str, ...]
    asked: tuple[str, ...]
    answer: str


def _any_of(choices: tuple[str, ...]) -> Callable[[random.Random], str]:
    return lambda rng: rng.choice(choices)


#: What fills each slot.
SLOTS: dict[str, Callable[[random.Random], str]] = {
    "who": words.person,
    "other": words.person,
    "name": lambda rng: words.coined(rng) if rng.random() < 0.3 else rng.choice(words.FIRST_NAMES),
    "house": lambda rng: f"{words.coined(rng)} {rng.choice(['Hall', 'House', 'Park', 'Abbey', 'Farm'])}",
    "place": words.place,
    "date": words.date,
    "title": words.title,
    "colour": _any_of(words.COLOURS),
    "item": _any_of(words.ITEMS),
    "animal": _any_of(words.ANIMALS),
    "trade": _any_of(words.TRADES),
    "food": _any_of(words.FOODS),
    "hiding": _any_of(words.HIDING),
    "ship": _any_of(words.SHIPS),
    "material": _any_of(words.MATERIALS),
    "cause": _any_of(words.CAUSES),
    "goods": _any_of(words.GOODS),
    "role": _any_of(words.ROLES),
    "age": lambda rng: rng.choice([str(rng.randint(17, 94)), f"{rng.randint(17, 94)} years"]),
    "price": lambda rng: f"{rng.randint(2, 900)} {rng.choice(['pounds', 'dollars', 'francs', 'crowns'])}",
    "hour": lambda rng: rng.choice(
        [
            f"{rng.randint(1, 11)} o'clock",
            f"half past {rng.choice(['two', 'five', 'nine', 'eleven'])}",
            "midnight",
            "dawn",
        ]
    ),
    "secret": lambda rng: f"{rng.choice(words.COLOURS)} {rng.choice(words.ANIMALS)}",
}

KINDS = (
    Kind(
        (
            "{who} hid the {item} {hiding}.",
            "Nobody knew that {who} had put the {item} {hiding}.",
            "The {item} of {who} was kept {hiding}.",
        ),
        ("Where is the {item} of {who}?", "Where did {who} leave the {item}?", "Where can {who}'s {item} be found?"),
        "hiding",
    ),
    Kind(
        (
            "{who} was born in {place}.",
            "{who} came into the world in {place}.",
            "{place} is the birthplace of {who}.",
            "{who}, born in {place}, never spoke of it.",
        ),
        ("Where was {who} born?", "What is the birthplace of {who}?", "In which city was {who} born?"),
        "place",
    ),
    Kind(
        (
            "{who} lives in {place} and works as a {trade}.",
            "{who}, a {trade} by profession, had settled in {place}.",
        ),
        ("Where does {who} live?", "Which town is the home of {who}?", "In what place did {who} settle?"),
        "place",
    ),
    Kind(
        (
            "{who} lives in {place} and works as a {trade}.",
            "{who}, a {trade} by profession, had settled in {place}.",
            "As a {trade}, {who} rose before the sun.",
        ),
        ("What does {who} do for a living?", "What is the profession of {who}?", "What is {who}'s job?"),
        "trade",
    ),
    Kind(
        (
            "{who} owned a {colour} {item}.",
            "The {item} of {who} was {colour}.",
            "{who} had painted the {item} {colour}.",
        ),
        (
            "What colour is the {item} of {who}?",
            "What color was {who}'s {item}?",
            "Which colour did {who}'s {item} have?",
        ),
        "colour",
    ),
    Kind(
        ("{who} married on {date}.", "On {date} {who} married at last.", "It was on {date} that {who} married."),
        ("When did {who} get married?", "On what date did {who} marry?", "When was the wedding of {who}?"),
        "date",
    ),
    Kind(
        ("{who} left for {place} on {date}.", "On {date}, {who} set out for {place}."),
        ("When did {who} leave for {place}?", "On what date did {who} set out for {place}?"),
        "date",
    ),
    Kind(
        ("{who} left for {place} on {date}.", "On {date}, {who} set out for {place}."),
        ("Where did {who} travel?", "What was the destination of {who}?", "For which town did {who} set out?"),
        "place",
    ),
    Kind(
        ("{who} opened the shop on {date}.", "The shop of {who} opened its doors on {date}."),
        ("When did {who} open the shop?", "What is the opening date of {who}'s shop?"),
        "date",
    ),
    Kind(
        ("{who} had a {animal} called {name}.", "The {animal} of {who} answered to the name of {name}."),
        ("What is the name of {who}'s {animal}?", "What was the {animal} of {who} called?"),
        "name",
    ),
    Kind(
        ("{who} had a {animal} called {name}.", "{name}, the {animal} that {who} kept, was much admired."),
        ("What kind of animal did {who} have?", "Which animal was kept by {who}?", "What animal is {who}'s {name}?"),
        "animal",
    ),
    Kind(
        ("The favourite dish of {who} was {food}.", "{who} liked nothing better than {food}."),
        (
            "What is the favourite dish of {who}?",
            "What does {who} like to eat most?",
            "Which food does {who} love?",
        ),
        "food",
    ),
    Kind(
        ("{who} is married to {other}.", "{who} took the hand of {other} in marriage."),
        ("Who is {who} married to?", "What is the name of {who}'s spouse?"),
        "other",
    ),
    Kind(
        ("{who} works for {other}.", "{who} has long been in the service of {other}."),
        ("Who does {who} work for?", "Who is the employer of {who}?"),
        "other",
    ),
    Kind(
        ("{who} was taught by {other}.", "{other} had been the teacher of {who}."),
        ("Who was the teacher of {who}?", "Who taught {who}?"),
        "other",
    ),
    Kind(
        ("{who} was betrayed by {other}.", "It was {other} who betrayed {who}."),
        ("Who betrayed {who}?", "By whom was {who} betrayed?"),
        "other",
    ),
    Kind(
        ("{who} sold the farm to {other}.", "The farm of {who} went to {other}."),
        ("Who bought the farm of {who}?", "To whom did {who} sell the farm?"),
        "other",
    ),
    Kind(
        ("{who} adopted a child and named it {name}.", "The foundling that {who} brought up was christened {name}."),
        (
            "What is the name of the child that {who} adopted?",
            "What did {who} call the child?",
            "What name was given to the child of {who}?",
        ),
        "name",
    ),
    Kind(
        ("{who} wrote {title}.", "{title} is a book by {who}.", "The author of {title} is {who}."),
        ("Who wrote {title}?", "Who is the author of {title}?"),
        "who",
    ),
    Kind(
        ("{who} wrote {title}.", "{title} is a book by {who}.", "{title} came from the pen of {who}."),
        ("Which book did {who} write?", "What is the title of {who}'s book?"),
        "title",
    ),
    Kind(
        (
            "{who} became {role} of {place}.",
            "The {role} of {place} was {who}.",
            "In {place}, {who} was chosen as {role}.",
        ),
        ("Who was the {role} of {place}?", "Who became {role} in {place}?"),
        "who",
    ),
    Kind(
        ("{who} sailed on the {ship}.", "The {ship} carried {who} across the sea."),
        ("On which ship did {who} sail?", "What was the name of the ship that carried {who}?"),
        "ship",
    ),
    Kind(
        ("The {item} of {who} was made of {material}.", "{who} carved the {item} out of {material}."),
        ("What was {who}'s {item} made of?", "From which material was the {item} of {who}?"),
        "material",
    ),
    Kind(
        ("{who} was ruined by {cause}.", "It was {cause} that ruined {who}.", "Because of {cause}, {who} was ruined."),
        ("What ruined {who}?", "Why was {who} ruined?", "What was the cause of {who}'s ruin?"),
        "cause",
    ),
    Kind(
        ("{who} traded in {goods}.", "{who} made a fortune with {goods}."),
        ("What did {who} trade in?", "With what did {who} make a fortune?", "What were the goods of {who}?"),
        "goods",
    ),
    Kind(
        ("{who} had reached the age of {age}.", "At the age of {age}, {who} began anew."),
        ("How old was {who}?", "What was the age of {who}?"),
        "age",
    ),
    Kind(
        ("{who} paid {price} for the {item}.", "The {item} cost {who} {price}."),
        ("How much did {who} pay for the {item}?", "What was the price of {who}'s {item}?"),
        "price",
    ),
    Kind(
        ("{who} arrived at {hour}.", "It was {hour} when {who} came home."),
        ("At what time did {who} arrive?", "What time did {who} come home?"),
        "hour",
    ),
    Kind(
        ("{who} lived at {house}.", "{house} was the seat of {who}."),
        ("Which house did {who} live in?", "What was the name of {who}'s house?", "Where was the seat of {who}?"),
        "house",
    ),
    Kind(
        ("The password of {who} was {secret}.", "{who} whispered the password: {secret}."),
        ("What is the password of {who}?", "Which password did {who} use?"),
        "secret",
    ),
)


def words_fact(rng: random.Random) -> Fact:
    """A fact in words, as a row of `KINDS` tells and asks it."""
    return _fact(rng, rng.choice(KINDS), SLOTS)


def _fact(rng: random.Random, kind: Kind, slots: Mapping[str, Callable[[random.Random], str]]) -> Fact:
    """A fact of one kind, its slots filled by `slots`."""
    while True:
        filled = {slot: draw(rng) for slot, draw in slots.items()}
        statement, answer = rng.choice(kind.told).format(**filled), filled[kind.answer]
        questions = tuple(question.format(**filled) for question in kind.asked)
        if answer in statement and not any(_holds(question, answer) for question in questions):
            break

    def lookalike(rng: random.Random) -> Fact:
        return _fact(rng, kind, {**slots, "who": lambda rng: words.namesake(rng, filled["who"])})

    return Fact("words", statement, questions, answer, lookalike=lookalike)


def _holds(text: str, phrase: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE) is not None
