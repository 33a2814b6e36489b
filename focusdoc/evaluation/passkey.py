"""Passkey retrieval as the paper's authors have it (Figure 1): one key among sentences of noise, at any length."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from focusdoc.errors import EvaluationError
from focusdoc.evaluation.item import Item

#: The lengths of Figure 1, in tokens.
LENGTHS = (4096, 16_384, 65_536, 131_072, 409_600)
#: Prompts of each length, as the authors have.
REPEATS = 10
#: Room for a key and the words of a chat model around it.
MAX_NEW_TOKENS = 16
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
_TASK = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. I will quiz you "
    "about the important information there."
)
_QUESTION = "What is the pass key? The pass key is"
#: Keys are from 1 to below this.
_KEYS = 50_000


def load_items(
    count: Callable[[str], int], lengths: Sequence[int] = LENGTHS, *, repeats: int = REPEATS, seed: int = 0
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
                max_new_tokens=MAX_NEW_TOKENS,
                chat=False,  # it ends with an unfinished sentence
                facts={"length": length, "depth": round(before / letters, 3)},
            )


def statement(key: int) -> str:
    """The sentences with the key."""
    return f"The pass key is {key}. Remember it. {key} is the pass key."
