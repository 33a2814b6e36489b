"""Scores of natural questions, for the prediction and for the retrieved passages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import regex

from focusdoc.errors import EvaluationError
from focusdoc.evaluation.item import Span
from focusdoc.evaluation.text_scores import word_f1, words_of

#: The tasks, whose answers are texts, or patterns that a right answer matches.
TEXT_TASK, PATTERN_TASK = "natural", "natural_patterns"
#: Time limit for matching a pattern, which comes from a file, in seconds.
_SECONDS = 10.0


def f1(prediction: str, answers: Sequence[str]) -> float:
    """F1 of the normalized words, the best over the answers, as in SQuAD."""
    return max(word_f1(prediction, answer) for answer in answers)


def contained(prediction: str, answers: Sequence[str]) -> float:
    """1 if the normalized words of an answer occur in sequence in the prediction, else 0."""
    words = f" {' '.join(words_of(prediction))} "
    golds = (" ".join(words_of(answer)) for answer in answers)
    return float(any(gold and f" {gold} " in words for gold in golds))


def right(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction matches a pattern, else 0; its first letter may be upper case."""
    variants = (prediction, prediction[:1].lower() + prediction[1:])
    return float(any(matches(pattern, text) for pattern in answers for text in variants))


def matches(pattern: str, text: str) -> list[Span]:
    """All matches of a pattern in a text.

    Raises:
        EvaluationError: it is not a regular expression, or takes too long.
    """
    try:
        return [found.span() for found in regex.finditer(pattern, text, timeout=_SECONDS)]
    except regex.error as error:
        raise EvaluationError(f"The answer {pattern!r} is not a regular expression ({error}).") from error
    except TimeoutError as error:
        raise EvaluationError(
            f"The answer {pattern!r} takes more than {_SECONDS:g} s to match; simplify it."
        ) from error


#: The score of each task.
NATURAL_SCORES: Mapping[str, Callable[[str, Sequence[str]], float]] = {TEXT_TASK: f1, PATTERN_TASK: right}

#: The measures of an answer, by task; each 0 to 1.
_MEASURES: Mapping[str, Mapping[str, Callable[[str, Sequence[str]], float]]] = {
    TEXT_TASK: {"F1": f1, "contained": contained},
    PATTERN_TASK: {"right": right},
}
#: Ranks k of "found at k": whether the answer is in one of the first k passages.
AMONG = (1, 4)
#: All measures in the order of a report.
COLUMNS = [*(name for task in _MEASURES.values() for name in task), *(f"found at {rank}" for rank in AMONG)]


def of_answer(row: Mapping[str, Any]) -> dict[str, float]:
    """The scores of a row's prediction, 0 to 1."""
    return {name: measure(row["prediction"], row["answers"]) for name, measure in _MEASURES[row["task"]].items()}


def of_finding(row: Mapping[str, Any]) -> dict[str, float]:
    """Whether the row's answer was in the first passages, 0 or 1; empty for modes without passages."""
    if "passages" not in row:
        return {}
    return {f"found at {rank}": float(row["found"] is not None and row["found"] <= rank) for rank in AMONG}


def interval(values: Sequence[float], *, seed: int = 0, draws: int = 10_000) -> tuple[float, float]:
    """The 95% confidence interval of the mean by bootstrap (resampling with replacement)."""
    import numpy as np

    known = np.asarray(values)
    drawn = np.random.default_rng(seed).integers(0, len(known), (draws, len(known)))
    low, high = np.percentile(known[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)
