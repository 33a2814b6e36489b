"""Scores of one prediction against one gold text, shared by several benchmarks: F1 of words, and ROUGE."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Hashable, Sequence

from focusdoc.evaluation.needed import needed

_ARTICLES = re.compile(r"\b(a|an|the)\b")
#: Chinese punctuation that the benchmark removes.
_CHINESE = re.compile(
    "[\\u002e\\u2013\\u2014\\u2018\\u2019\\u201b-\\u201f\\u2026\\u2027\\u3001-\\u3003\\u300b-\\u3011\\u3014-\\u301f\\u3030\\u303e"
    "\\u303f\\ufe4f\\uff01-\\uff0d\\uff0f\\uff1a-\\uff20\\uff3b-\\uff40\\uff5b-\\uff64]"
)
_PUNCTUATION = set(string.punctuation)


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation and without the articles a, an and the."""
    bare = "".join(letter for letter in text.lower() if letter not in _PUNCTUATION)
    return _ARTICLES.sub(" ", bare).split()


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
