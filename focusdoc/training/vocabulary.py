"""What generated facts are about: names, places, things and numbers, drawn from a random generator."""

from __future__ import annotations

import random


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
SHIPS = _words("Swallow Endeavour Albatross Minerva Tempest Juno Pelican Amazon Valiant Corsair Nautilus Merlin")
MATERIALS = _words("oak brass marble ivory copper walnut silver leather glass bronze pine slate clay iron wax velvet")
CAUSES = _words(
    "a fever|the flood|an unpaid debt|a broken axle|a forged letter|the heavy snow|a quarrel over a will|bad harvests|"
    "a lost wager|his brother's lies|a leaking roof|the price of coal|an old promise|a false alarm|the bitter cold",
    between="|",
)
GOODS = _words(
    "tea|wool|salt|coffee|timber|horses|spices|clocks|books|lace|copper|olive oil|furs|gunpowder", between="|"
)
ROLES = _words("mayor captain organist headmaster bishop treasurer gardener president conductor editor governor judge")
SYLLABLES = _words(
    "bar den mor ral win tho kel dra ves lin gar hol mak sed fen cor wick ster ham bury ford ley vik son ard ell ost "
    "und ira ton quil zan pel rod mer tav"
)


def digits(rng: random.Random, length: int) -> str:
    """A number of `length` digits that does not begin with 0."""
    return str(rng.randrange(10 ** (length - 1), 10**length))


def person(rng: random.Random) -> str:
    """A first and a last name, the last one coined half of the time."""
    return f"{rng.choice(FIRST_NAMES)} {coined(rng) if rng.random() < 0.5 else rng.choice(LAST_NAMES)}"


def namesake(rng: random.Random, name: str) -> str:
    """Another person with the first or the last name of `name`."""
    first, last = name.split(" ", 1)
    if rng.random() < 0.5:
        return f"{first} {person(rng).split(' ', 1)[1]}"
    return f"{rng.choice(FIRST_NAMES)} {last}"


def coined(rng: random.Random) -> str:
    """A name that nobody bears: it can be copied, but not guessed."""
    return "".join(rng.choices(SYLLABLES, k=rng.choice([2, 2, 3]))).capitalize()


def place(rng: random.Random) -> str:
    """A town, coined one time in three."""
    return coined(rng) if rng.random() < 0.33 else rng.choice(PLACES)


def date(rng: random.Random) -> str:
    """A day of a year, in one of the usual forms."""
    month, day, year = rng.choice(MONTHS), rng.randint(1, 28), rng.randint(1750, 2020)
    ordinal = f"{day}{'th' if 4 <= day <= 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"
    return rng.choice(
        [
            f"{day} {month} {year}",
            f"{month} {day}, {year}",
            f"{ordinal} {month} {year}",
            f"the {ordinal} of {month} {year}",
            f"{day} {month}",
        ]
    )


def title(rng: random.Random) -> str:
    """The title of a book."""
    thing, other = rng.sample(ITEMS, 2)
    return rng.choice(
        [
            f"The {rng.choice(COLOURS).capitalize()} {thing.capitalize()}",
            f"The {thing.capitalize()} and the {other.capitalize()}",
            f"The {thing.capitalize()} of {rng.choice(PLACES)}",
            f"Letters from {coined(rng)}",
        ]
    )
