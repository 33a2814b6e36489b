"""Items that need no files: InfiniteBench's synthetic tasks, the authors' pass keys, and needles in a book.

They are generated at any length and from a seed.
"""

from __future__ import annotations

import random
import statistics
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from focusdoc.documents import Document, tokenize
from focusdoc.documents.chunking import char_span
from focusdoc.errors import EvaluationError
from focusdoc.evaluation.item import Item
from focusdoc.evaluation.official import base_task, infinitebench_item

#: Counts the tokens of a text.
Count = Callable[[str], int]

#: Default number of generated rows of each task and length, as the authors have for pass keys.
REPEATS = 10
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
#: InfiniteBench's official sizes, used without a length.
PAIRS, INTEGERS, FUNCTIONS, NOISES = 2500, 60_000, 550, 5220
#: Targets of math_find, and their index in the sorted list of distinct values.
_PLACES: Mapping[str, int] = {
    **{"largest": -1, "second largest": -2, "third largest": -3},
    **{"smallest": 0, "second smallest": 1, "third smallest": 2},
}
MATH_TARGETS = (*_PLACES, "median")
#: Call depths of code_run.
DEPTHS = (2, 4, 6, 8, 10)
#: The official templates (MIT) of the generated tasks.
TEMPLATES = {
    "passkey": "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. I will "
    "quiz you about the important information.\n\n{context}\n\n{input}\n\nThe pass key is",
    "number_string": "There is an important info hidden inside a lot of irrelevant text. Find it. I will quiz you "
    "about the important information there.\n\n{context}\n\n{input}\n\nThe sequence of digits is",
    "kv_retrieval": "Extract the value corresponding to the specified key in the JSON object below.\n\n{context}\n\n"
    "{input}",
    "math_find": "{prefix}\n\n{context}\n\n{input}",
    "code_run": "There is a function called {func} in the following Python code.\n\n{context}\n\nPlease compute the "
    "exact value of {func_call}. The value of {func_call} is",
}

#: Default lengths of needles' books, in tokens.
NEEDLE_LENGTHS = (4096, 8192, 16_384, 32_768)
#: Room for a number and the words of a chat model around it.
NEEDLE_NEW_TOKENS = 24
_TOWNS = (
    "Almaty", "Bergen", "Cuenca", "Dakar", "Esbjerg", "Fukuoka", "Galway", "Hobart", "Iquitos", "Jaipur", "Kumasi",
    "Leuven", "Mombasa", "Nantes", "Ohrid", "Potsdam",
)  # fmt: skip
#: Tokens of a needle and its question, at most.
_FRAME = 64

#: The lengths of the paper's Figure 1, in tokens.
PASSKEY_LENGTHS = (4096, 16_384, 65_536, 131_072, 409_600)
#: Room for a key and the words of a chat model around it.
PASSKEY_NEW_TOKENS = 16
_PASSKEY_TASK = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. I will quiz you "
    "about the important information there.\nWhat is the pass key? The pass key is"
)
#: Pass keys are from 1 to below this.
_KEYS = 50_000


def generated_items(
    count: Count, tasks: Sequence[str], lengths: Sequence[int | None], *, repeats: int, seed: int, order: str = "paper"
) -> Iterator[Item]:
    """`repeats` items of each InfiniteBench task at each length in tokens (None: the official size), shortest first.

    Raises:
        EvaluationError: a task is unknown or needs data, or a length is too short.
    """
    check_generated(tasks)
    for length in sorted(lengths, key=lambda value: value or 0):
        for task in tasks:
            for number, row in enumerate(make_rows(task, length=length, repeats=repeats, seed=seed, count=count)):
                name = str(number) if length is None else f"{length}-{number}"
                facts = {"length": length, **row["facts"]}
                yield infinitebench_item(task, name, row, TEMPLATES[task], order, chat=False, facts=facts)


def check_generated(tasks: Sequence[str]) -> None:
    """Raise EvaluationError unless all of `tasks` can be generated."""
    for task in tasks:
        if task not in MAKERS and base_task(task):
            raise EvaluationError(
                f"{task} needs the official files (--data); tasks that can be generated: {', '.join(MAKERS)}."
            )


def make_rows(task: str, *, length: int | None, repeats: int, seed: int, count: Count) -> list[dict[str, Any]]:
    """`repeats` rows of a task with the fields of the official files, and facts for reports; deterministic."""
    rngs = (random.Random(f"{task} {seed} {length} {number}") for number in range(repeats))
    return [MAKERS[task](Request(rng, number, repeats, length, count)) for number, rng in enumerate(rngs)]


@dataclass(frozen=True)
class Request:
    """One row to generate: number `number` of `total`; depths, targets and kinds take turns.

    The context has about `length` tokens, measured by `count`; None is for the official size.
    """

    rng: random.Random
    number: int
    total: int
    length: int | None
    count: Count

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
    return _hidden(request, "pass key", "".join(request.rng.choice("0123456789") for _ in range(5)))


def number_string(request: Request) -> dict[str, Any]:
    """Like `passkey` with ten digits: five random ones, then a random digit is repeated in place five times."""
    digits = [request.rng.choice("0123456789") for _ in range(5)]
    for _ in range(5):
        index = request.rng.randrange(len(digits))
        digits.insert(index, digits[index])
    return _hidden(request, "sequence of digits", "".join(digits))


def _hidden(request: Request, name: str, key: str) -> dict[str, Any]:
    """The sentences with a key called `name`, among repeated noise."""
    sentences = f"{statement(key, name)}\n"
    length = None if request.length is None else request.length - request.count(sentences)
    line = f"{NOISE}\n"
    noises = replace(request, length=length).units(line * 16, 16, NOISES)
    before = round(request.depth * noises)
    context = line * before + sentences + line * (noises - before)
    return _row(context, f"What is the {name}?", key, depth=request.depth)


def kv_retrieval(request: Request) -> dict[str, Any]:
    """A JSON object of pairs of UUIDs, asked for the value of one key."""

    def pair() -> str:
        key, value = (uuid.UUID(int=request.rng.getrandbits(128), version=4) for _ in range(2))
        return f'"{key}": "{value}"'

    sample = ", ".join(pair() for _ in range(8))
    pairs = [pair() for _ in range(request.units(sample, 8, PAIRS))]
    index = round(request.depth * (len(pairs) - 1))
    key, value = pairs[index].strip('"').split('": "')
    question = f'\nKey: "{key}"\nThe value associated with the specified key is: '
    return _row("JSON data:\n{" + ", ".join(pairs) + "}", question, value, depth=request.depth)


def math_find(request: Request) -> dict[str, Any]:
    """A list of integers, asked for the median or one of the three largest or smallest distinct values.

    Each row has its own bounds within 0 to 99; otherwise the largest of thousands of integers would always be 99.
    """
    target = MATH_TARGETS[request.number % len(MATH_TARGETS)]
    low, high = request.rng.randint(0, 40), request.rng.randint(59, 99)
    sample = ", ".join(str(request.rng.randint(low, high)) for _ in range(64))
    values = [request.rng.randint(low, high) for _ in range(request.units(sample, 64, INTEGERS))]
    if target == "median":
        middle = statistics.median(values)
        answer = int(middle) if middle == int(middle) else middle
    else:
        distinct = sorted(set(values))
        answer = distinct[max(-len(distinct), min(len(distinct) - 1, _PLACES[target]))]
    question = f"You should answer with only one number, no other words. The {target} number of the list is: "
    return _row(str(values), question, answer, kind=target)


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
    call = f"func_{names[chain]}({argument})"
    context = "".join(source[name] for name in sorted(source))
    question = f"Please give me the exact number of the return value of {call}."
    return _row(context, question, argument + sum(steps[chain : chain + depth]), kind=f"depth {depth}")


def _function(name: int, calls: int | None, step: int) -> str:
    inner = "x" if calls is None else f"func_{calls}(x)"
    sign = "+" if step >= 0 else "-"
    return f"def func_{name}(x):\n    return {inner} {sign} {abs(step)}\n\n"


def _row(context: str, question: str, answer: str | float, **facts: Any) -> dict[str, Any]:
    return {"context": context, "input": question, "answer": [answer], "facts": facts}


#: The tasks that need no data.
MAKERS: Mapping[str, Callable[[Request], dict[str, Any]]] = {
    maker.__name__: maker for maker in (passkey, number_string, kv_retrieval, math_find, code_run)
}


def needle_items(
    tokenizer: Any, book: Document, lengths: Sequence[int], depths: Sequence[float], *, repeats: int = 1, seed: int = 0
) -> Iterator[Item]:
    """A made-up fact in the beginning of `book`: `repeats` items for every length in tokens, shortest first, and depth.

    Depth 0 is the beginning of the text and 1 its end; the needle goes to the end of the sentence before.

    Raises:
        EvaluationError: the book is shorter than a length, or a depth is not from 0 to 1.
    """
    if any(not 0 <= depth <= 1 for depth in depths):
        raise EvaluationError(f"The depths are {list(depths)}; each must be from 0 to 1.")
    tokens = tokenize(tokenizer, book.text)
    for length in sorted(lengths):
        if not 2 * _FRAME <= length <= len(tokens) + _FRAME:
            raise EvaluationError(
                f"{book.name} has {len(tokens):,} tokens, so a needle cannot be hidden among {length:,}; "
                f"give a longer book, or lengths of at least {2 * _FRAME}."
            )
        _, end = char_span(tokens, 0, length - _FRAME)
        text = book.text[:end]
        for depth in depths:
            place = _sentence_end(text, round(depth * len(text)))
            for number in range(repeats):
                rng = random.Random(f"needle {seed} {length} {depth} {number}")
                town, code = rng.choice(_TOWNS), rng.randrange(100_000, 1_000_000)
                yield Item(
                    task="needle",
                    id=f"{length}-{depth:g}-{number}",
                    context=f"{text[:place]} The access code of {town} is {code}. {text[place:]}",
                    after=f"\n\nWhat is the access code of {town}?",
                    answers=[str(code)],
                    max_new_tokens=NEEDLE_NEW_TOKENS,
                    facts={"length": length, "depth": depth},
                )


def _sentence_end(text: str, place: int) -> int:
    """The last end of a sentence at or before `place`; `place` if there is none."""
    if place in (0, len(text)):
        return place
    found = max(text.rfind(mark, 0, place) for mark in (". ", ".\n", "? ", "! "))
    return place if found < 0 else found + 1


def passkey_items(count: Count, lengths: Sequence[int], *, repeats: int = REPEATS, seed: int = 0) -> Iterator[Item]:
    """`repeats` pass keys of the paper's authors (Figure 1) at about each of `lengths` in tokens, shortest first.

    The key is at a random position, possibly within a sentence of the noise, since the authors split by characters.

    Raises:
        EvaluationError: a length leaves no room for the key and the question.
    """
    sentences = " ".join([NOISE] * 64)
    letters_per_token = len(sentences) / count(sentences)
    for length in sorted(lengths):
        frame = count(f"{statement(_KEYS)}\n{_PASSKEY_TASK}")
        letters = int((length - frame) * letters_per_token)
        if letters < len(NOISE):
            raise EvaluationError(
                f"The length {length} is too short for a pass key among noise; give at least {2 * frame}."
            )
        noise = " ".join([NOISE] * (letters // len(NOISE) + 1))
        for number in range(repeats):
            rng = random.Random(f"passkey {seed} {length} {number}")
            before = rng.randint(0, letters)
            key = rng.randrange(1, _KEYS)
            yield Item(
                task="passkey",
                id=f"{length}-{number}",
                context="\n".join([noise[:before], statement(key), noise[: letters - before]]),
                after=f"\n{_PASSKEY_TASK}",
                answers=[str(key)],
                max_new_tokens=PASSKEY_NEW_TOKENS,
                chat=False,  # it ends with an unfinished sentence
                facts={"length": length, "depth": round(before / letters, 3)},
            )


def statement(key: int | str, name: str = "pass key") -> str:
    """The sentences with a key."""
    return f"The {name} is {key}. Remember it. {key} is the {name}."
