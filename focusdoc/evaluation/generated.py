"""InfiniteBench's synthetic tasks, made by the benchmark's construction at any length, from a seed.

Each maker gives one row with the fields of the official files, context, input and answer, and with facts about it.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from focusdoc.errors import EvaluationError

#: How many tokens a text takes.
Counter = Callable[[str], int]

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"
#: What math_find asks for: the words of the question, and the place in the sorted list of distinct values.
_PLACES: Mapping[str, int] = {
    "largest": -1,
    "second largest": -2,
    "third largest": -3,
    "smallest": 0,
    "second smallest": 1,
    "third smallest": 2,
}
MATH_TARGETS = (*_PLACES, "median")
#: How deep the calls of code_run go.
DEPTHS = (2, 4, 6, 8, 10)
#: The official sizes, used where no length is asked for.
PAIRS, INTEGERS, FUNCTIONS, NOISES = 2500, 60_000, 550, 5220


@dataclass(frozen=True)
class Request:
    """One row to make.

    Attributes:
        rng: where every draw comes from.
        number, total: which of how many rows it is; depths, targets and kinds take turns.
        length: about how many tokens the context takes; None for the official size.
        count: how many tokens a text takes.
    """

    rng: random.Random
    number: int
    total: int
    length: int | None
    count: Counter

    @property
    def depth(self) -> float:
        """Where in the context the answer stands, spread evenly over the rows, both ends included."""
        return self.number / (self.total - 1) if self.total > 1 else 0.5

    def units(self, sample: str, in_sample: int, official: int) -> int:
        """How many units fill the length, from a text of `in_sample` of them."""
        if self.length is None:
            return official
        units = int(self.length * in_sample / self.count(sample))
        if units < 2:
            raise EvaluationError(f"The length {self.length} is too short for this task; give at least 1,024 tokens.")
        return units


def passkey(request: Request) -> dict[str, Any]:
    """One sentence with a key of five digits between repeats of the noise."""
    key = "".join(request.rng.choice("0123456789") for _ in range(5))
    return _hidden(
        request, f"The pass key is {key}. Remember it. {key} is the pass key.\n", "What is the pass key?", key
    )


def number_string(request: Request) -> dict[str, Any]:
    """As passkey, with ten digits: five drawn, then five times one of them doubled in its place."""
    digits = [request.rng.choice("0123456789") for _ in range(5)]
    for _ in range(5):
        place = request.rng.randrange(len(digits))
        digits.insert(place, digits[place])
    key = "".join(digits)
    statement = f"The sequence of digits is {key}. Remember it. {key} is the sequence of digits.\n"
    return _hidden(request, statement, "What is the sequence of digits?", key)


def kv_retrieval(request: Request) -> dict[str, Any]:
    """A JSON object of pairs of UUIDs, and one of its keys."""

    def pair() -> str:
        return f'"{_uuid(request.rng)}": "{_uuid(request.rng)}"'

    sample = ", ".join(pair() for _ in range(8))
    pairs = [pair() for _ in range(request.units(sample, 8, PAIRS))]
    place = round(request.depth * (len(pairs) - 1))
    key, value = pairs[place].strip('"').split('": "')
    return {
        "context": "JSON data:\n{" + ", ".join(pairs) + "}",
        "input": f'\nKey: "{key}"\nThe value associated with the specified key is: ',
        "answer": [value],
        "facts": {"depth": request.depth},
    }


def math_find(request: Request) -> dict[str, Any]:
    """A list of integers from 0 to 99, asked for its largest, smallest or median, or one next to the ends.

    Among thousands of draws from 0 to 99 the largest would always be 99; each row has bounds of its own, so that the
    answer is not known beforehand. Of equal values, the second largest is the next smaller one.
    """
    target = MATH_TARGETS[request.number % len(MATH_TARGETS)]
    low, high = request.rng.randint(0, 40), request.rng.randint(59, 99)
    sample = ", ".join(str(request.rng.randint(low, high)) for _ in range(64))
    count = request.units(sample, 64, INTEGERS)
    values = [request.rng.randint(low, high) for _ in range(count)]
    if target == "median":
        ordered = sorted(values)
        low_middle, high_middle = ordered[(count - 1) // 2], ordered[count // 2]
        total = low_middle + high_middle
        answer: int | float = total / 2 if total % 2 else total // 2
    else:
        distinct = sorted(set(values))
        answer = distinct[max(-len(distinct), min(len(distinct) - 1, _PLACES[target]))]
    asked = f"You should answer with only one number, no other words. The {target} number of the list is: "
    return {"context": str(values), "input": asked, "answer": [answer], "facts": {"kind": target}}


def code_run(request: Request) -> dict[str, Any]:
    """Functions that add a number to their argument or to what another one makes of it, and a call of one of them."""
    depth = DEPTHS[request.number % len(DEPTHS)]
    count = FUNCTIONS
    for _ in range(2):  # names are as long as their numbers, which are known only when the count is
        sample = "".join(_function(count // 2 + number, count // 2, 50) for number in range(16))
        count = max(depth, request.units(sample, 16, FUNCTIONS))
    names = request.rng.sample(range(count), count)
    steps = [request.rng.randint(-99, 99) for _ in range(count)]
    # Chains of `depth` functions over the shuffled names: each calls the next, the last of a chain calls none.
    source = []
    for place, name in enumerate(names):
        last = place % depth == depth - 1 or place == count - 1
        source.append((name, _function(name, None if last else names[place + 1], steps[place])))
    chain = request.rng.randrange(count // depth) * depth
    argument = request.rng.randint(-99, 99)
    answer = argument + sum(steps[chain : chain + depth])
    context = "".join(text for _, text in sorted(source))
    call = f"func_{names[chain]}({argument})"
    asked = f"Please give me the exact number of the return value of {call}."
    return {"context": context, "input": asked, "answer": [answer], "facts": {"kind": f"depth {depth}"}}


#: The tasks that need no data.
MAKERS: Mapping[str, Callable[[Request], dict[str, Any]]] = {
    "passkey": passkey,
    "number_string": number_string,
    "kv_retrieval": kv_retrieval,
    "math_find": math_find,
    "code_run": code_run,
}


def make_rows(task: str, *, length: int | None, repeats: int, seed: int, count: Counter) -> list[dict[str, Any]]:
    """`repeats` rows of a task; the same arguments give the same rows."""
    rows = []
    for number in range(repeats):
        rng = random.Random(f"{task} {seed} {length} {number}")
        rows.append(MAKERS[task](Request(rng, number, repeats, length, count)))
    return rows


def _hidden(request: Request, statement: str, question: str, answer: str) -> dict[str, Any]:
    spare = request.count(statement) if request.length is not None else 0
    room = Request(request.rng, request.number, request.total, _less(request.length, spare), request.count)
    noises = room.units(NOISE * 16, 16, NOISES)
    before = round(request.depth * noises)
    context = NOISE * before + statement + NOISE * (noises - before)
    return {"context": context, "input": question, "answer": [answer], "facts": {"depth": request.depth}}


def _less(length: int | None, spare: int) -> int | None:
    return None if length is None else length - spare


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _function(name: int, calls: int | None, step: int) -> str:
    inner = "x" if calls is None else f"func_{calls}(x)"
    sign = "+" if step >= 0 else "-"
    return f"def func_{name}(x):\n    return {inner} {sign} {abs(step)}\n\n"
