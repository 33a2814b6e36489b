"""Evaluation as the paper does it: official data, official formulas, and the baselines on the same base model.

`score` is the one stable entry for all benchmarks. The command line is ``focusdoc eval`` and ``focusdoc report``.
"""

from focusdoc.evaluation.scores import score

__all__ = ["score"]
