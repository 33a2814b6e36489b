"""Scores of one prediction against one gold text that several benchmarks share: F1 of words, and ROUGE."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Hashable, Sequence

from focusdoc.evaluation.needed import needed

_ARTICLES = re.compile(r"\b(a|an|the)\b")
#: Punctuation of Chinese texts, as the benchmark removes it: code points, first and last.
_CHINESE_RANGES = (
    (0x002E, 0x002E),
    (0x2013, 0x2014),
    (0x2018, 0x2019),
    (0x201B, 0x201F),
    (0x2026, 0x2027),
    (0x3001, 0x3003),
    (0x300B, 0x3011),
    (0x3014, 0x301F),
    (0x3030, 0x3030),
    (0x303E, 0x303F),
    (0xFE4F, 0xFE4F),
    (0xFF01, 0xFF0D),
    (0xFF0F, 0xFF0F),
    (0xFF1A, 0xFF20),
    (0xFF3B, 0xFF40),
    (0xFF5B, 0xFF64),
)
_CHINESE = {chr(code) for first, last in _CHINESE_RANGES for code in range(first, last + 1)}
_PUNCTUATION = set(string.punctuation)


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation and without the articles a, an and the."""
    bare = "".join(letter for letter in text.lower() if letter not in _PUNCTUATION)
    return _ARTICLES.sub(" ", bare).split()


def chinese_letters_of(text: str) -> list[str]:
    """Lower-case characters without punctuation and white space; each counts as a word."""
    return [
        letter
        for letter in text.lower()
        if letter not in _PUNCTUATION and letter not in _CHINESE and not letter.isspace()
    ]


def bag_f1(found: Sequence[Hashable], gold: Sequence[Hashable]) -> float:
    """F1 of two bags of tokens; 0 where they share none."""
    common = sum((Counter(found) & Counter(gold)).values())
    return 2 * common / (len(found) + len(gold)) if common else 0.0


def word_f1(prediction: str, gold: str) -> float:
    """F1 of the normalised words, as SQuAD scores answers."""
    return bag_f1(words_of(prediction), words_of(gold))


def chinese_f1(prediction: str, gold: str) -> float:
    """F1 of the characters."""
    return bag_f1(chinese_letters_of(prediction), chinese_letters_of(gold))


def rouge_l(prediction: str, gold: str) -> float:
    """ROUGE-L F of the ``rouge`` package, which is LongBench's; 0 where it fails (an empty text)."""
    rouge = needed("rouge", "eval")
    try:
        scores = rouge.Rouge().get_scores([prediction], [gold], avg=True)
    except (ValueError, RecursionError):  # the official code takes every failure for 0
        return 0.0
    return float(scores["rouge-l"]["f"])


def rouge_l_sum(prediction: str, gold: str) -> float:
    """ROUGE-Lsum F of the ``rouge_score`` package, which is InfiniteBench's."""
    scorer = needed("rouge_score.rouge_scorer", "eval").RougeScorer(["rougeLsum"])
    return float(scorer.score(gold, prediction)["rougeLsum"].fmeasure)
