"""Scores of a reply: its rank among drafts, and the confidence that the documents contain the answer.

There are six signals: the peak of the candidates' scores, the BM25 match between passages and question, the finder's
probability of the passages, the likelihood of the reply, the reader's judgement that the passages state it, and whether
the reply has a word that the question does not have. benchmarks/judging.py fits the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

#: Names of the signals, in order.
SIGNALS = ("looked", "words", "covered", "likelihood", "agreement", "news")
#: Weights for ranking drafts: the logits of a softmax over them. The first signal is the same for all drafts.
# The weights of likelihood and news are set by hand: the training answers are short and say little about long ones.
RANK_WEIGHTS = (0.0, 0.108, 1.143, 1.8, 1.654, 3.0)
#: Weights and bias for the confidence, as a logit.
WEIGHTS, BIAS = (0.51, 1.977, 0.286, 1.203, 0.394, 1.006), -1.506
#: Lower bound of the likelihood signal.
_MIN_LIKELIHOOD = -8.0
#: Upper bound of the agreement signal in ranking, and so of the rank of a draft that is not written yet. The trained
#: drafter gives right drafts 4 to 6; without the bound nearly every passage would be read.
_MAX_AGREEMENT = 3.5
#: Defaults for signals that a reader does not provide: the medians of answered questions.
_LIKELIHOOD, _AGREEMENT = -0.1, 5.0
#: Below this confidence an answer counts as not found.
MIN_CONFIDENCE = 0.5


def signals(
    look_peak: float,
    words: float,
    covered: float,
    likelihood: float | None,
    agreement: float | None,
    adds_words: bool = True,
) -> list[float]:
    """The signals, in the order of `SIGNALS`.

    Args:
        look_peak: the highest score that a candidate gave.
        words: BM25 score of the passages' best window, per word of the question.
        covered: the finder's probability of the passages.
        likelihood: see `Written.likelihood`; None if the reader does not provide it.
        agreement: log-odds that the passages state the reply; None if the reader does not provide them.
        adds_words: whether the reply has a word that the question does not have.
    """
    return [
        math.log(max(look_peak, 1e-12)),
        words,
        math.log(max(covered, 1e-6)),
        _LIKELIHOOD if likelihood is None else max(likelihood, _MIN_LIKELIHOOD),
        _AGREEMENT if agreement is None else agreement,
        float(adds_words),
    ]


def rank_signals(signals: Sequence[float]) -> list[float]:
    """The signals for `RANK_WEIGHTS`, with the agreement clipped."""
    *others, agreement, news = signals
    return [*others, min(agreement, _MAX_AGREEMENT), news]


def rank_score_of(signals: Sequence[float]) -> float:
    """The score that ranks a reply among drafts."""
    return sum(weight * value for weight, value in zip(RANK_WEIGHTS, rank_signals(signals), strict=True))


def confidence_of(signals: Sequence[float]) -> float:
    """The probability, 0 to 1, that the documents contain the answer."""
    logit = BIAS + sum(weight * value for weight, value in zip(WEIGHTS, signals, strict=True))
    return 1 / (1 + math.exp(-logit))
