"""LongBench's official scores of one prediction against one gold answer, quirks included."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from focusdoc.errors import EvaluationError
from focusdoc.evaluation.needed import needed
from focusdoc.evaluation.text_scores import rouge_l, word_f1

#: Of a prediction, its gold answer and the row's classes.
LongBenchScore = Callable[[str, str, Sequence[str]], float]

#: Tasks whose predictions are cut to their first line; no other task is post-processed.
FIRST_LINE = frozenset({"trec", "triviaqa", "samsum"})


def first_line(prediction: str) -> str:
    """What stands before the first line break, leading line breaks aside."""
    return prediction.lstrip("\n").split("\n")[0]


def classification(prediction: str, gold: str, all_classes: Sequence[str]) -> float:
    """One over the number of classes named, if the gold class is among them.

    Of the classes named, those that are a proper part of the gold class are taken out. The official code takes them
    out of the list that it walks over, which skips the one after each; scores depend on it, so this does the same.
    """
    if not all_classes:
        raise EvaluationError("trec is scored by the row's all_classes; pass the list of class names.")
    named = [name for name in all_classes if name in prediction]
    for name in named:
        if name in gold and name != gold:
            named.remove(name)
    return 1.0 / len(named) if gold in named else 0.0


def number_share(prediction: str, gold: str) -> float:
    """The share of the numbers in the prediction that are the gold number."""
    numbers = re.findall(r"\d+", prediction)
    return sum(number == gold for number in numbers) / len(numbers) if numbers else 0.0


def paragraph_share(prediction: str, gold: str) -> float:
    """The share of the numbers in the prediction that are the number in the gold "Paragraph N"."""
    wanted = re.search(r"Paragraph (\d+)", gold)
    if wanted is None:
        raise EvaluationError(
            f"The answer {gold!r} of passage_retrieval_en names no paragraph; it must be 'Paragraph N'."
        )
    return number_share(prediction, wanted[1])


def code_similarity(prediction: str, gold: str) -> float:
    """Edit similarity of the gold line and the first line that is neither comment nor Markdown."""
    lines = prediction.lstrip("\n").split("\n")
    code = next((line for line in lines if not any(mark in line for mark in ("`", "#", "//"))), "")
    return float(needed("fuzzywuzzy.fuzz", "eval").ratio(code, gold)) / 100


def _without_classes(score: Callable[[str, str], float]) -> LongBenchScore:
    return lambda prediction, gold, _: score(prediction, gold)


#: The 15 tasks of the paper's Table 6 by what scores them.
LONGBENCH_SCORES: Mapping[str, LongBenchScore] = {
    "narrativeqa": _without_classes(word_f1),
    "qasper": _without_classes(word_f1),
    "multifieldqa_en": _without_classes(word_f1),
    "hotpotqa": _without_classes(word_f1),
    "2wikimqa": _without_classes(word_f1),
    "musique": _without_classes(word_f1),
    "gov_report": _without_classes(rouge_l),
    "qmsum": _without_classes(rouge_l),
    "multi_news": _without_classes(rouge_l),
    "trec": classification,
    "triviaqa": _without_classes(word_f1),
    "samsum": _without_classes(rouge_l),
    "passage_retrieval_en": _without_classes(paragraph_share),
    "lcc": _without_classes(code_similarity),
    "repobench-p": _without_classes(code_similarity),
    "passage_count": _without_classes(number_share),
}
