"""Scoring one prediction with the official formulas of LongBench and InfiniteBench, quirks included, and our own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any

from focusdoc.errors import EvaluationError
from focusdoc.evaluation.loading import needed
from focusdoc.evaluation.natural_scores import NATURAL_SCORES, chinese_f1, rouge_l, rouge_l_sum, word_f1

#: Tasks whose predictions are truncated to the first line; no other task is post-processed.
FIRST_LINE = frozenset({"trec", "triviaqa", "samsum"})


def classification(prediction: str, gold: str, all_classes: Sequence[str]) -> float:
    """One over the number of classes in the prediction, if the gold class is among them.

    Classes that are a proper part of the gold class are removed first. The official code removes them from the list
    while iterating over it, which skips the next one; scores depend on it, so this does the same.
    """
    if not all_classes:
        raise EvaluationError("trec is scored by the row's all_classes; pass the list of class names.")
    named = [name for name in all_classes if name in prediction]
    for name in named:
        if name in gold and name != gold:
            named.remove(name)
    return 1.0 / len(named) if gold in named else 0.0


def number_share(prediction: str, gold: str) -> float:
    """The share of the prediction's numbers that equal the gold number."""
    numbers = re.findall(r"\d+", prediction)
    return sum(number == gold for number in numbers) / len(numbers) if numbers else 0.0


def paragraph_share(prediction: str, gold: str) -> float:
    """The share of the prediction's numbers that equal N of the gold "Paragraph N"."""
    wanted = re.search(r"Paragraph (\d+)", gold)
    if wanted is None:
        raise EvaluationError(
            f"The answer {gold!r} of passage_retrieval_en names no paragraph; it must be 'Paragraph N'."
        )
    return number_share(prediction, wanted[1])


def code_similarity(prediction: str, gold: str) -> float:
    """Edit similarity between the gold line and the first line that is neither comment nor Markdown."""
    lines = prediction.lstrip("\n").split("\n")
    code = next((line for line in lines if not any(mark in line for mark in ("`", "#", "//"))), "")
    return float(needed("fuzzywuzzy.fuzz", "eval").ratio(code, gold)) / 100


#: The scores of the 15 tasks of the paper's Table 6, and of one more; that of trec takes the row's classes too.
LONGBENCH_SCORES: Mapping[str, Callable[..., float]] = {
    **dict.fromkeys(("narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "musique"), word_f1),
    **dict.fromkeys(("gov_report", "qmsum", "multi_news"), rouge_l),
    "trec": classification,
    "triviaqa": word_f1,
    "samsum": rouge_l,
    "passage_retrieval_en": paragraph_share,
    **dict.fromkeys(("lcc", "repobench-p"), code_similarity),
    "passage_count": number_share,
}

#: Called with a prediction and the list of gold answers.
Score = Callable[[str, Sequence[Any]], float]


def first_digits(prediction: str, gold: Sequence[Any]) -> float:
    """passkey, number_string: the first run of digits is the gold string."""
    digits = re.findall("[0-9]+", prediction)
    return float(digits[:1] == [str(gold[0])])


def word_found(prediction: str, gold: Sequence[Any]) -> float:
    """kv_retrieval: the gold value is one of the prediction's words."""
    return float(gold[0] in _blanked(prediction, "\n:\"'.,?!{}").split())


def last_integer(prediction: str, gold: Sequence[Any]) -> float:
    """code_run: the last word is the gold integer."""
    words = _blanked(prediction, "\n.`'\":").split()
    try:
        return float(int(words[-1]) == int(gold[0]))
    except (IndexError, ValueError):
        return 0.0


def first_number(prediction: str, gold: Sequence[Any]) -> float:
    """math_find: the first number is the gold one, read as the gold's type."""
    found = re.findall(r"\d+\.\d+|\d+", prediction)
    wanted = gold[0]
    if isinstance(wanted, str):  # the hosted data set has all answers as strings
        wanted = float(wanted) if "." in wanted else int(wanted)
    try:
        return float(type(wanted)(found[0]) == wanted)
    except (IndexError, ValueError):  # no number; or "3.5", which is not an int: the official code stops there
        return 0.0


def longest_beginning(prediction: str, gold: Sequence[Any]) -> float:
    """math_calc: the share of the gold's intermediate values that the prediction starts with."""
    values = [int(value) for value in (gold[0] if isinstance(gold[0], list) else gold)]
    found = map(int, re.findall("[0-9]+", prediction))
    pairs = zip(values, found, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) / len(values)


def marked_function(prediction: str, gold: Sequence[Any]) -> float:
    """code_debug: the letter or the function's name; `gold` is [name, letter]."""
    text = prediction.strip()
    name, letter = str(gold[0]), str(gold[1])
    if _last_letter(text, "A-J") == letter:
        return 1.0
    text = re.sub(" +", " ", re.sub("[\n`'\"*-]|[Oo]ption", " ", text))
    if text.startswith((letter, name)):
        return 1.0
    return _after_prefix(text, ("answer is:", "is:", "answer:", "correct option is:"), (letter, name)) or 0.0


def marked_option(prediction: str, gold: Sequence[Any]) -> float:
    """longbook_choice_eng: the letter or the option's text; `gold` is [text, letter]."""
    text, accepted = prediction.strip(), [str(answer) for answer in gold]
    if not text:
        return 0.0
    if _last_letter(text, "A-D") in accepted:
        return 1.0
    if text[0] in "ABCD":
        return float(text[0] in accepted)
    if text in accepted:
        return 1.0
    text = re.sub(" +", " ", _blanked(text, "\n\"'.,?!{}"))
    prefixes = ("answer is:", "is:", "answer:", "correct option is:", "answer is", "option is")
    after = _after_prefix(text, prefixes, accepted)
    if after is not None:
        return after
    # The official code tests `word in "ABCD"`, which holds for "AB" and "CD" as well.
    return next((float(word in accepted) for word in text.split() if word in "ABCD"), 0.0)


def name_found(prediction: str, gold: Sequence[Any]) -> float:
    """longdialogue_qa_eng: a gold name occurs in the prediction, ignoring case."""
    text = prediction.strip().upper()
    return float(any(str(name).upper() in text for name in gold))


def _blanked(text: str, characters: str) -> str:
    """`text` with a space for each of `characters`."""
    return text.translate(dict.fromkeys(map(ord, characters), " "))


def _last_letter(text: str, letters: str) -> str | None:
    """The last standalone option letter in the first line that has one, by the official pattern."""
    found = re.search(rf"\b[{letters}]\b(?!.*\b[{letters}]\b)", text)
    return found[0] if found else None


def _after_prefix(text: str, prefixes: Sequence[str], accepted: Sequence[str]) -> float | None:
    """Whether an accepted answer follows the first of `prefixes` that occurs, after any one character; None if none."""
    for prefix in prefixes:
        if prefix in text:
            return float(text.partition(prefix)[2][1:].startswith(tuple(accepted)))
    return None


def _best(score: Callable[[str, str], float]) -> Score:
    return lambda prediction, gold: max(score(prediction, str(answer)) for answer in gold)


#: The scores of InfiniteBench's 12 tasks.
INFINITEBENCH_SCORES: Mapping[str, Score] = {
    "passkey": first_digits,
    "number_string": first_digits,
    "kv_retrieval": word_found,
    "math_find": first_number,
    "math_calc": longest_beginning,
    "code_run": last_integer,
    "code_debug": marked_function,
    "longbook_choice_eng": marked_option,
    "longbook_qa_eng": _best(word_f1),
    "longbook_sum_eng": _best(rouge_l_sum),
    "longbook_qa_chn": _best(chinese_f1),
    "longdialogue_qa_eng": name_found,
}
#: The scores of all tasks.
SCORES: Mapping[str, Callable[..., float]] = {
    **LONGBENCH_SCORES,
    **INFINITEBENCH_SCORES,
    **NATURAL_SCORES,
    "needle": first_digits,
}


def score(task: str, prediction: str, answers: Any, all_classes: Sequence[str] | None = None) -> float:
    """Score one prediction by the official formula of its task.

    Args:
        task: the benchmark's name of the task, such as ``"qasper"`` or ``"kv_retrieval"``.
        prediction: the model's output, unprocessed.
        answers: the row's gold answers, a list or a single value. In LongBench the best match counts; in InfiniteBench
            this is the row's ``answer``.
        all_classes: the row's class names, which trec needs.

    Returns:
        0 to 1. A benchmark reports the mean over a task's rows, times 100.

    Raises:
        EvaluationError: the task is unknown, there is no answer, or a package of the extra ``eval`` is missing.
    """
    if task not in SCORES:
        raise EvaluationError(f"The task {task!r} is unknown; choose one of {', '.join(SCORES)}.")
    golds = list(answers) if isinstance(answers, list | tuple) else [answers]
    if not golds:
        raise EvaluationError(f"A row of {task} has no answer to score against; give it at least one.")
    if task in LONGBENCH_SCORES:
        text = prediction.lstrip("\n").split("\n")[0] if task in FIRST_LINE else prediction
        more = [all_classes or ()] if task == "trec" else []
        return max(LONGBENCH_SCORES[task](text, str(gold), *more) for gold in golds)
    return SCORES[task](prediction, golds)
