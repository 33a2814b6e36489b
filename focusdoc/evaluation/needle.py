"""One fact hidden in a long text of any length, a needle in a book or a pass key among noise.

A needle is a made-up fact at every depth of a real text. A pass key is as the paper's authors have it (Figure 1): one
key among sentences of noise.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from focusdoc.documents import Document, tokenize
from focusdoc.documents.chunking import char_span
from focusdoc.errors import EvaluationError
from focusdoc.evaluation.item import Item

LENGTHS = (4096, 8192, 16_384, 32_768)
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
#: Room for a number and the words of a chat model around it.
MAX_NEW_TOKENS = 24
_TOWNS = (
    "Almaty", "Bergen", "Cuenca", "Dakar", "Esbjerg", "Fukuoka", "Galway", "Hobart", "Iquitos", "Jaipur", "Kumasi",
    "Leuven", "Mombasa", "Nantes", "Ohrid", "Potsdam",
)  # fmt: skip
_FRAME = 64
#: The lengths of Figure 1, in tokens.
PASSKEY_LENGTHS = (4096, 16_384, 65_536, 131_072, 409_600)
#: Pass keys of each length, as the authors have.
REPEATS = 10
#: Room for a key and the words of a chat model around it.
PASSKEY_NEW_TOKENS = 16
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
_TASK = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. I will quiz you "
    "about the important information there."
)
_QUESTION = "What is the pass key? The pass key is"
#: Keys are from 1 to below this.
_KEYS = 50_000


def load_items(
    tokenizer: Any,
    book: Document,
    lengths: Sequence[int] = LENGTHS,
    depths: Sequence[float] = DEPTHS,
    *,
    repeats: int = 1,
    seed: int = 0,
) -> Iterator[Item]:
    """`repeats` items for every length in tokens and every depth, shortest length first.

    The beginning of `book` is the haystack. Depth 0 is its beginning and 1 its end; the needle goes to the end of the
    sentence before.

    Raises:
        EvaluationError: the book is shorter than a length, or a depth is not from 0 to 1.
    """
    if any(not 0 <= depth <= 1 for depth in depths):
        raise EvaluationError(f"The depths are {list(depths)}; each must be from 0 to 1.")
    tokens = tokenize(tokenizer, book.text)
    for length in sorted(lengths):
        if not 2 * _FRAME <= length <= len(tokens.token_ids) + _FRAME:
            raise EvaluationError(
                f"{book.name} has {len(tokens.token_ids):,} tokens, so a needle cannot be hidden among {length:,}; "
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
                    max_new_tokens=MAX_NEW_TOKENS,
                    facts={"length": length, "depth": depth},
                )


def _sentence_end(text: str, place: int) -> int:
    """The last end of a sentence at or before `place`; `place` if there is none."""
    if place in (0, len(text)):
        return place
    found = max(text.rfind(mark, 0, place) for mark in (". ", ".\n", "? ", "! "))
    return place if found < 0 else found + 1


def passkey_items(
    count: Callable[[str], int],
    lengths: Sequence[int] = PASSKEY_LENGTHS,
    *,
    repeats: int = REPEATS,
    seed: int = 0,
) -> Iterator[Item]:
    """`repeats` passkey prompts of about each of `lengths` in tokens, shortest first.

    The key is at a random position, possibly within a sentence of the noise, since the authors split by characters.

    Raises:
        EvaluationError: a length leaves no room for the key and the question.
    """
    sentences = " ".join([NOISE] * 64)
    letters_per_token = len(sentences) / count(sentences)
    for length in sorted(lengths):
        frame = count("\n".join([statement(_KEYS), _TASK, _QUESTION]))
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
                after=f"\n{_TASK}\n{_QUESTION}",
                answers=[str(key)],
                max_new_tokens=PASSKEY_NEW_TOKENS,
                chat=False,  # it ends with an unfinished sentence
                facts={"length": length, "depth": round(before / letters, 3)},
            )


def statement(key: int) -> str:
    """The sentences with the key."""
    return f"The pass key is {key}. Remember it. {key} is the pass key."
