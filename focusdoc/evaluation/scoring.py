"""The score of one row: one entry for every task of LongBench and InfiniteBench, and for our own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from focusdoc.errors import EvaluationError
from focusdoc.evaluation.infinitebench_scores import INFINITEBENCH_SCORES
from focusdoc.evaluation.longbench_scores import FIRST_LINE, LONGBENCH_SCORES, first_line
from focusdoc.evaluation.natural_scores import NATURAL_SCORES

#: Our own needle test is scored as InfiniteBench scores a pass key.
NEEDLE = "needle"


def known_tasks() -> list[str]:
    """Every task that `score` knows, by the benchmarks' own names."""
    return [*LONGBENCH_SCORES, *INFINITEBENCH_SCORES, *NATURAL_SCORES, NEEDLE]


def score(task: str, prediction: str, answers: Any, all_classes: Sequence[str] | None = None) -> float:
    """Score one prediction by the official formula of its task.

    Args:
        task: the benchmark's own name of the task, such as ``"qasper"`` or ``"kv_retrieval"``.
        prediction: what the model wrote, as it is.
        answers: the row's gold answers. For LongBench any of them may match, and the best counts. For InfiniteBench
            the list of the row's ``answer``; a single value stands for a list of one.
        all_classes: the class names of the row; trec needs them.

    Returns:
        0 to 1. A benchmark's figure for a task is the mean over its rows, times 100.

    Raises:
        EvaluationError: the task is unknown, there is no answer, or a package of the extra ``eval`` is missing.
    """
    golds = list(answers) if isinstance(answers, list | tuple) else [answers]
    if not golds:
        raise EvaluationError(f"A row of {task} has no answer to be scored against; give it at least one.")
    if task in LONGBENCH_SCORES:
        text = first_line(prediction) if task in FIRST_LINE else prediction
        return max(LONGBENCH_SCORES[task](text, str(gold), all_classes or ()) for gold in golds)
    if task in NATURAL_SCORES:
        return NATURAL_SCORES[task](prediction, golds)
    if task == NEEDLE:
        task = "passkey"
    if task not in INFINITEBENCH_SCORES:
        raise EvaluationError(f"The task {task!r} is unknown; choose one of {', '.join(known_tasks())}.")
    return INFINITEBENCH_SCORES[task](prediction, golds)
