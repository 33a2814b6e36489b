"""Scores of texts that several benchmarks share (F1 of words, ROUGE), and those of natural questions."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import regex

from focusdoc.errors import EvaluationError
from focusdoc.evaluation.item import Span
from focusdoc.evaluation.loading import needed

#: Chinese punctuation that the benchmark removes.
_CHINESE = re.compile(
    "[\\u002e\\u2013\\u2014\\u2018\\u2019\\u201b-\\u201f\\u2026\\u2027\\u3001-\\u3003\\u300b-\\u3011\\u3014-\\u301f\\u3030\\u303e"
    "\\u303f\\ufe4f\\uff01-\\uff0d\\uff0f\\uff1a-\\uff20\\uff3b-\\uff40\\uff5b-\\uff64]"
)
_PUNCTUATION = set(string.punctuation)


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation and without the articles a, an and the."""
    bare = "".join(letter for letter in text.lower() if letter not in _PUNCTUATION)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def chinese_letters_of(text: str) -> list[str]:
    """Lower-case characters without punctuation and white space; each counts as a word."""
    return [letter for letter in _CHINESE.sub("", text.lower()) if letter not in _PUNCTUATION and not letter.isspace()]


def bag_f1(found: Sequence[Hashable], gold: Sequence[Hashable]) -> float:
    """F1 of two bags of tokens; 0 if they share none."""
    common = sum((Counter(found) & Counter(gold)).values())
    return 2 * common / (len(found) + len(gold)) if common else 0.0


def word_f1(prediction: str, gold: str) -> float:
    """F1 of the normalized words, as in SQuAD."""
    return bag_f1(words_of(prediction), words_of(gold))


def chinese_f1(prediction: str, gold: str) -> float:
    """F1 of the characters."""
    return bag_f1(chinese_letters_of(prediction), chinese_letters_of(gold))


def rouge_l(prediction: str, gold: str) -> float:
    """ROUGE-L F of the ``rouge`` package, as in LongBench; 0 if it fails (an empty text)."""
    rouge = needed("rouge", "eval")
    try:
        scores = rouge.Rouge().get_scores([prediction], [gold], avg=True)
    except (ValueError, RecursionError):  # the official code scores every failure as 0
        return 0.0
    return float(scores["rouge-l"]["f"])


def rouge_l_sum(prediction: str, gold: str) -> float:
    """ROUGE-Lsum F of the ``rouge_score`` package, as in InfiniteBench."""
    scorer = needed("rouge_score.rouge_scorer", "eval").RougeScorer(["rougeLsum"])
    return float(scorer.score(gold, prediction)["rougeLsum"].fmeasure)


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
    """All matches of a pattern in a text; EvaluationError if it is not a regular expression, or takes too long."""
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
#: All measures of a row, in the order of a report.
COLUMNS = ["F1", "contained", "right", "found at 1", "found at 4"]


def of_answer(row: Mapping[str, Any]) -> dict[str, float]:
    """The scores of a row's prediction, 0 to 1."""
    prediction, answers = row["prediction"], row["answers"]
    if row["task"] == PATTERN_TASK:
        return {"right": right(prediction, answers)}
    return {"F1": f1(prediction, answers), "contained": contained(prediction, answers)}


def of_finding(row: Mapping[str, Any]) -> dict[str, float]:
    """Whether the row's answer was in the first passages, 0 or 1; empty for modes without passages."""
    if "passages" not in row:
        return {}
    return {f"found at {rank}": float(row["found"] is not None and row["found"] <= rank) for rank in (1, 4)}


def interval(values: Sequence[float], *, seed: int = 0, draws: int = 10_000) -> tuple[float, float]:
    """The 95% confidence interval of the mean by bootstrap (resampling with replacement)."""
    import numpy as np

    known = np.asarray(values)
    drawn = np.random.default_rng(seed).integers(0, len(known), (draws, len(known)))
    low, high = np.percentile(known[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)
