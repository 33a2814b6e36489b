"""How probable it is that the documents tell what was asked.

Four signals, each of which knows a part: how much the candidates took from the place looked at most, how well its words
match, how surely the reader wrote, and whether it says, asked once more, that the passages state this answer. None of
them is relative to other places, as the finder's probabilities are: something is always found most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from focusdoc.readers.finding import Found

#: What each signal counts for, and the bias of their sum, which is a logit (benchmarks/absent.py learns them).
WEIGHTS, BIAS = (0.487, 1.603, 0.252, 0.972), -0.397
#: What counts for a reply against others: the logarithm of its passages' probability, its log-likelihood, and the
#: reader's own judgement of it (benchmarks/drafts.py learns them).
PROMISE = (1.0, 0.5, 1.0)
#: What takes the place of a signal that a reader does not tell: the middle of answered questions.
_UNKNOWN = (0.0, 0.0, -1.0, 0.0)
#: An answer that is less likely than this, in nats, tells nothing more; long ones are.
_UNLIKELY = -20.0
#: Below this confidence, the documents are held not to tell.
FOUND = 0.5


def signals_of(found: Found, log_likelihood: float | None, agreement: float | None) -> list[float]:
    """The signals, in the order of `WEIGHTS`."""
    told = (
        math.log(max(found.look_peak, 1e-12)),
        found.words_peak,
        None if log_likelihood is None else max(log_likelihood, _UNLIKELY),
        agreement,
    )
    return [middle if value is None else value for value, middle in zip(told, _UNKNOWN, strict=True)]


def confidence_of(signals: Sequence[float]) -> float:
    """The probability, 0 to 1, that the documents tell what was asked."""
    logit = BIAS + sum(weight * value for weight, value in zip(WEIGHTS, signals, strict=True))
    return 1 / (1 + math.exp(-logit))


def promise_of(covered: float, log_likelihood: float | None, agreement: float | None) -> float:
    """How much speaks for a reply, against others that the same reader made; a logit of a softmax over these.

    Args:
        covered: the probability that the answer stands in its passages, as the finder sees it.
    """
    told = (
        math.log(max(covered, 1e-6)),
        max(_UNLIKELY if log_likelihood is None else log_likelihood, _UNLIKELY),
        0.0 if agreement is None else agreement,
    )
    return sum(weight * value for weight, value in zip(PROMISE, told, strict=True))
