"""InfiniteBench's synthetic tasks, generated as in the benchmark, at any length and from a seed.

Each maker returns one row with the fields of the official files (context, input, answer) and with facts for reports.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from focusdoc.errors import EvaluationError

#: Counts the tokens of a text.
Counter = Callable[[str], int]

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"
#: The targets of math_find, and their index in the sorted list of distinct values.
_PLACES: Mapping[str, int] = {
    **{"largest": -1, "second largest": -2, "third largest": -3},
    **{"smallest": 0, "second smallest": 1, "third smallest": 2},
}
MATH_TARGETS = (*_PLACES, "median")
#: Call depths of code_run.
DEPTHS = (2, 4, 6, 8, 10)
#: The official sizes, used without a length.
PAIRS, INTEGERS, FUNCTIONS, NOISES = 2500, 60_000, 550, 5220


@dataclass(frozen=True)
class Request:
    """One row to generate: number `number` of `total`; depths, targets and kinds take turns.

    The context has about `length` tokens, measured by `count`; None is for the official size.
    """

    rng: random.Random
    number: int
    total: int
    length: int | None
    count: Counter

    @property
    def depth(self) -> float:
        """The relative position of the answer in the context, evenly spaced over the rows, 0 to 1."""
        return self.number / (self.total - 1) if self.total > 1 else 0.5

    def units(self, sample: str, in_sample: int, official: int) -> int:
        """How many units fill `length`, measured on a sample text of `in_sample` units."""
        if self.length is None:
            return official
        units = int(self.length * in_sample / self.count(sample))
        if units < 2:
            raise EvaluationError(f"The length {self.length} is too short for this task; give at least 1,024 tokens.")
        return units


def passkey(request: Request) -> dict[str, Any]:
    """A sentence with a five-digit key among repeated noise."""
    key = "".join(request.rng.choice("0123456789") for _ in range(5))
    return _hidden(request, "pass key", key)


def number_string(request: Request) -> dict[str, Any]:
    """Like `passkey` with ten digits: five random ones, then a random digit is repeated in place five times."""
    digits = [request.rng.choice("0123456789") for _ in range(5)]
    for _ in range(5):
        index = request.rng.randrange(len(digits))
        digits.insert(index, digits[index])
    return _hidden(request, "sequence of digits", "".join(digits))


def kv_retrieval(request: Request) -> dict[str, Any]:
    """A JSON object of pairs of UUIDs, asked for the value of one key."""

    def pair() -> str:
        key, value = (uuid.UUID(int=request.rng.getrandbits(128), version=4) for _ in range(2))
        return f'"{key}": "{value}"'

    sample = ", ".join(pair() for _ in range(8))
    pairs = [pair() for _ in range(request.units(sample, 8, PAIRS))]
    index = round(request.depth * (len(pairs) - 1))
    key, value = pairs[index].strip('"').split('": "')
    return {
        "context": "JSON data:\n{" + ", ".join(pairs) + "}",
        "input": f'\nKey: "{key}"\nThe value associated with the specified key is: ',
        "answer": [value],
        "facts": {"depth": request.depth},
    }


def math_find(request: Request) -> dict[str, Any]:
    """A list of integers, asked for the median or one of the three largest or smallest distinct values.

    Each row has its own bounds within 0 to 99; otherwise the largest of thousands of integers would always be 99.
    """
    target = MATH_TARGETS[request.number % len(MATH_TARGETS)]
    low, high = request.rng.randint(0, 40), request.rng.randint(59, 99)
    sample = ", ".join(str(request.rng.randint(low, high)) for _ in range(64))
    count = request.units(sample, 64, INTEGERS)
    values = [request.rng.randint(low, high) for _ in range(count)]
    if target == "median":
        ordered = sorted(values)
        total = ordered[(count - 1) // 2] + ordered[count // 2]
        answer: int | float = total / 2 if total % 2 else total // 2
    else:
        distinct = sorted(set(values))
        answer = distinct[max(-len(distinct), min(len(distinct) - 1, _PLACES[target]))]
    question = f"You should answer with only one number, no other words. The {target} number of the list is: "
    return {"context": str(values), "input": question, "answer": [answer], "facts": {"kind": target}}


def code_run(request: Request) -> dict[str, Any]:
    """Functions that add a number to their argument or to another function's result, asked for the result of a call."""
    depth = DEPTHS[request.number % len(DEPTHS)]
    count = FUNCTIONS
    for _ in range(2):  # the length of the names depends on the count
        sample = "".join(_function(count // 2 + number, count // 2, 50) for number in range(16))
        count = max(depth, request.units(sample, 16, FUNCTIONS))
    names = request.rng.sample(range(count), count)
    steps = [request.rng.randint(-99, 99) for _ in range(count)]
    # Chains of `depth` functions over the shuffled names: each calls the next, the last of a chain calls none.
    source = {}
    for index, name in enumerate(names):
        last = index % depth == depth - 1 or index == count - 1
        source[name] = _function(name, None if last else names[index + 1], steps[index])
    chain = request.rng.randrange(count // depth) * depth
    argument = request.rng.randint(-99, 99)
    answer = argument + sum(steps[chain : chain + depth])
    context = "".join(source[name] for name in sorted(source))
    call = f"func_{names[chain]}({argument})"
    question = f"Please give me the exact number of the return value of {call}."
    return {"context": context, "input": question, "answer": [answer], "facts": {"kind": f"depth {depth}"}}


#: The tasks that need no data.
MAKERS: Mapping[str, Callable[[Request], dict[str, Any]]] = {
    maker.__name__: maker for maker in (passkey, number_string, kv_retrieval, math_find, code_run)
}


def make_rows(task: str, *, length: int | None, repeats: int, seed: int, count: Counter) -> list[dict[str, Any]]:
    """`repeats` rows of a task; deterministic."""
    rngs = (random.Random(f"{task} {seed} {length} {number}") for number in range(repeats))
    return [MAKERS[task](Request(rng, number, repeats, length, count)) for number, rng in enumerate(rngs)]


def _hidden(request: Request, name: str, key: str) -> dict[str, Any]:
    """The sentences with a key called `name`, among repeated noise."""
    statement = f"The {name} is {key}. Remember it. {key} is the {name}.\n"
    length = None if request.length is None else request.length - request.count(statement)
    noises = replace(request, length=length).units(NOISE * 16, 16, NOISES)
    before = round(request.depth * noises)
    context = NOISE * before + statement + NOISE * (noises - before)
    return {"context": context, "input": f"What is the {name}?", "answer": [key], "facts": {"depth": request.depth}}


def _function(name: int, calls: int | None, step: int) -> str:
    inner = "x" if calls is None else f"func_{calls}(x)"
    sign = "+" if step >= 0 else "-"
    return f"def func_{name}(x):\n    return {inner} {sign} {abs(step)}\n\n"
