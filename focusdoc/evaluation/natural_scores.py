"""Scores of natural questions: of a prediction, and of the passages found for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import regex

from focusdoc.errors import EvaluationError
from focusdoc.evaluation.item import Span
from focusdoc.evaluation.text_scores import word_f1, words_of

#: The tasks, by what their answers are: texts, or patterns that a right answer matches.
TEXT_TASK, PATTERN_TASK = "natural", "natural_patterns"
#: Seconds that a pattern, which a file brings, may take over a document.
_SECONDS = 10.0


def f1(prediction: str, answers: Sequence[str]) -> float:
    """F1 of the normalised words with the answer that is nearest, as SQuAD has it."""
    return max(word_f1(prediction, answer) for answer in answers)


def contained(prediction: str, answers: Sequence[str]) -> float:
    """1 where the normalised words of an answer stand in a row among the prediction's, else 0."""
    said = f" {' '.join(words_of(prediction))} "
    golds = (" ".join(words_of(answer)) for answer in answers)
    return float(any(gold and f" {gold} " in said for gold in golds))


def right(prediction: str, answers: Sequence[str]) -> float:
    """1 where the prediction matches a pattern, else 0; it may begin with a capital that the word has not."""
    ways = (prediction, prediction[:1].lower() + prediction[1:])
    return float(any(matches(pattern, text) for pattern in answers for text in ways))


def matches(pattern: str, text: str) -> list[Span]:
    """Where a pattern matches in a text.

    Raises:
        EvaluationError: it is no regular expression, or takes too long.
    """
    try:
        return [found.span() for found in regex.finditer(pattern, text, timeout=_SECONDS)]
    except regex.error as error:
        raise EvaluationError(f"The answer {pattern!r} is no regular expression ({error}).") from error
    except TimeoutError as error:
        raise EvaluationError(
            f"The answer {pattern!r} takes more than {_SECONDS:g} s to be looked for; simplify it."
        ) from error


#: The score of each task.
NATURAL_SCORES: Mapping[str, Callable[[str, Sequence[str]], float]] = {TEXT_TASK: f1, PATTERN_TASK: right}

#: What is told of an answer, by its task; of each, 0 to 1.
_MEASURES: Mapping[str, Mapping[str, Callable[[str, Sequence[str]], float]]] = {
    TEXT_TASK: {"F1": f1, "contained": contained},
    PATTERN_TASK: {"right": right},
}
#: The place of the answer is looked for among so many passages, the first of them.
AMONG = (1, 4)
#: All of these in the order of a report.
COLUMNS = [*(name for task in _MEASURES.values() for name in task), *(f"found at {most}" for most in AMONG)]


def of_answer(row: Mapping[str, Any]) -> dict[str, float]:
    """The scores of a row's prediction, 0 to 1."""
    return {name: measure(row["prediction"], row["answers"]) for name, measure in _MEASURES[row["task"]].items()}


def of_finding(row: Mapping[str, Any]) -> dict[str, float]:
    """Whether a row's place was found, 0 or 1, among so many passages; nothing where the mode has none."""
    if "passages" not in row:
        return {}
    return {f"found at {most}": float(row["found"] is not None and row["found"] <= most) for most in AMONG}


def interval(values: Sequence[float], *, seed: int = 0, draws: int = 10_000) -> tuple[float, float]:
    """From where to where 95% of the means lie of as many values drawn from these with replacement (bootstrap)."""
    import numpy as np

    known = np.asarray(values)
    drawn = np.random.default_rng(seed).integers(0, len(known), (draws, len(known)))
    low, high = np.percentile(known[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)
