"""Evaluation as in the paper: official data and formulas, and baselines on the same base model.

`score` is the stable API for all benchmarks. The commands are ``focusdoc eval`` and ``focusdoc report``.
"""

from focusdoc.evaluation.scores import score

__all__ = ["score"]
