"""How much speaks for a reply: against others to choose from, and against "the documents do not tell".

Six signals, each of which knows a part: how much the candidates took from the place looked at most, how well the words
of the reply's passages match the question's, how probable the finder holds these passages, how surely the reader wrote,
whether it says, asked once more, that they state this reply, and whether the reply has a word that the question does
not have. benchmarks/judging.py learns what they count for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

#: The names of the signals, in their order.
SIGNALS = ("looked", "words", "covered", "likelihood", "agreement", "news")
#: What each signal counts for where one reply is chosen from several: logits of a softmax over these. The first is the
#: same for all of them.
# Likelihood and news are set by hand: answers of a few words, which the learning has, tell little of long ones.
PROMISE = (0.0, 0.108, 1.143, 1.8, 1.654, 3.0)
#: What each signal counts for where it is told whether the documents tell, and the bias of their sum, which is a logit.
WEIGHTS, BIAS = (0.523, 1.879, 0.0, 1.396, 0.854, 0.0), 0.325
#: An answer that is less likely than this tells nothing more.
_UNLIKELY = -8.0
#: Where replies are chosen from, an agreement above this tells nothing more; few reach it. So what a reply can reach at
#: best is known before it is written.
_SUREST = 2.5
#: What takes the place of a signal that a reader does not tell: the middle of answered questions.
_LIKELIHOOD, _AGREEMENT = -0.5, 0.0
#: Below this confidence, the documents are held not to tell.
FOUND = 0.5


def signals(
    look_peak: float,
    words: float,
    covered: float,
    likelihood: float | None,
    agreement: float | None,
    tells_news: bool = True,
) -> list[float]:
    """The signals, in the order of `SIGNALS`.

    Args:
        look_peak: what the candidates looked at most got.
        words: BM25's score of the passages' best window for each word of the question.
        covered: the probability that the finder gives the passages.
        likelihood: of the reply, as `Written.likelihood` has it; None where the reader does not tell.
        agreement: the logarithm of the odds that the passages state the reply; None where the reader does not tell.
        tells_news: the reply has a word that the question has not.
    """
    return [
        math.log(max(look_peak, 1e-12)),
        words,
        math.log(max(covered, 1e-6)),
        _LIKELIHOOD if likelihood is None else max(likelihood, _UNLIKELY),
        _AGREEMENT if agreement is None else agreement,
        float(tells_news),
    ]


def for_choice(signals: Sequence[float]) -> list[float]:
    """The signals as `PROMISE` weighs them, with the agreement up to the most that tells."""
    *others, agreement, news = signals
    return [*others, min(agreement, _SUREST), news]


def promise_of(signals: Sequence[float]) -> float:
    """How much speaks for a reply against others."""
    return sum(weight * value for weight, value in zip(PROMISE, for_choice(signals), strict=True))


def confidence_of(signals: Sequence[float]) -> float:
    """The probability, 0 to 1, that the documents tell what was asked."""
    logit = BIAS + sum(weight * value for weight, value in zip(WEIGHTS, signals, strict=True))
    return 1 / (1 + math.exp(-logit))
