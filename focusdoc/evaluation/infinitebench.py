"""InfiniteBench: 12 tasks from the official files, five of which can also be generated at any length."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from focusdoc.errors import EvaluationError
from focusdoc.evaluation.files import context_first, fill, read_json, read_rows, task_file
from focusdoc.evaluation.generated import MAKERS, Counter, make_rows
from focusdoc.evaluation.item import Item
from focusdoc.evaluation.scores import INFINITEBENCH_SCORES

#: The paper's seven tasks.
TASKS = (
    "passkey",
    "number_string",
    "kv_retrieval",
    "math_find",
    "code_debug",
    "longbook_choice_eng",
    "longbook_qa_eng",
)
#: Tasks that the paper's authors prompt with the context before the instruction.
CONTEXT_FIRST = frozenset({"passkey", "number_string", "kv_retrieval", "longbook_choice_eng", "code_debug"})
MAX_NEW_TOKENS = {
    "passkey": 6,
    "number_string": 12,
    "kv_retrieval": 50,
    "longbook_sum_eng": 1200,
    **dict.fromkeys(("longbook_choice_eng", "longbook_qa_eng", "longbook_qa_chn", "longdialogue_qa_eng"), 40),
    "math_find": 3,
    "math_calc": 30_000,
    "code_run": 5,
    "code_debug": 5,
}
#: Default number of rows of a generated task and length.
REPEATS = 10
#: The set of templates that the paper's authors used, for base models, which continue bare text ("The pass key is").
DEFAULT_TEMPLATES = "yarn_mistral_templates"
#: The official templates (MIT) of the tasks that need no data; the others are loaded from prompts.json.
TEMPLATES = {
    "passkey": "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. I will "
    "quiz you about the important information.\n\n{context}\n\n{input}\n\nThe pass key is",
    "number_string": "There is an important info hidden inside a lot of irrelevant text. Find it. I will quiz you "
    "about the important information there.\n\n{context}\n\n{input}\n\nThe sequence of digits is",
    "kv_retrieval": "Extract the value corresponding to the specified key in the JSON object below.\n\n{context}\n\n"
    "{input}",
    "math_find": "{prefix}\n\n{context}\n\n{input}",
    "code_run": "There is a function called {func} in the following Python code.\n\n{context}\n\nPlease compute the "
    "exact value of {func_call}. The value of {func_call} is",
}
_PROMPTS = "prompts.json"
_CHOICES = frozenset({"code_debug", "longbook_choice_eng"})
_FIELDS = ("context", "input", "answer")


def load_items(
    data: Path,
    tasks: Sequence[str] = TASKS,
    *,
    limit: int | None = None,
    order: str = "paper",
    templates: str = DEFAULT_TEMPLATES,
) -> Iterator[Item]:
    """The items of `tasks` from the official files, at most `limit` rows of each.

    Args:
        data: the folder with ``<task>.jsonl`` and ``prompts.json``. A file name may have a number after the task, such
            as ``passkey_8192.jsonl``; its task is then ``passkey_8192``.
        order: ``"official"`` for the benchmark's prompts, ``"paper"`` for the authors' order.
        templates: which set of templates in ``prompts.json``.

    Raises:
        EvaluationError: a task is unknown or not in `data`, or a file is invalid.
    """
    paths = {name: task_file(data, name) for name in tasks if base_task(name)}
    prompts = read_json(data / _PROMPTS)
    if templates not in prompts:
        raise EvaluationError(f"{data / _PROMPTS} has no {templates!r}; it has {', '.join(sorted(prompts))}.")
    for name, path in paths.items():
        task = base_task(name)
        if task not in prompts[templates]:
            raise EvaluationError(f"{data / _PROMPTS} has no template of {task} in {templates}; choose another set.")
        rows = read_rows(path, (*_FIELDS, "options") if task in _CHOICES else _FIELDS, limit=limit)
        template = str(prompts[templates][task])
        yield from _items(task, rows, template, order, {"file": name}, chat=templates != DEFAULT_TEMPLATES)


def generated_items(
    count: Counter,
    tasks: Sequence[str],
    lengths: Sequence[int | None],
    *,
    repeats: int,
    seed: int,
    order: str = "paper",
) -> Iterator[Item]:
    """`repeats` items of each generated task at each of `lengths` in tokens (None: the official size), shortest first.

    Raises:
        EvaluationError: a task is unknown or needs data, or a length is too short.
    """
    check_generated(tasks)
    for length in sorted(lengths, key=lambda value: value or 0):
        for task in tasks:
            rows = make_rows(task, length=length, repeats=repeats, seed=seed, count=count)
            yield from _items(task, rows, TEMPLATES[task], order, {"length": length}, chat=False)


def check_generated(tasks: Sequence[str]) -> None:
    """Raise EvaluationError unless all of `tasks` can be generated."""
    for task in tasks:
        if task not in MAKERS and base_task(task):
            raise EvaluationError(
                f"{task} needs the official files (--data); tasks that can be generated: {', '.join(MAKERS)}."
            )


def base_task(name: str) -> str:
    """The official name of a task, from its file name; EvaluationError if there is no such task."""
    for task in sorted(INFINITEBENCH_SCORES, key=len, reverse=True):
        if re.fullmatch(rf"{task}(_\d+)?", name):
            return task
    raise EvaluationError(f"The InfiniteBench task {name!r} is unknown; choose from {', '.join(INFINITEBENCH_SCORES)}.")


def _items(
    task: str, rows: Iterable[Mapping[str, Any]], template: str, order: str, facts: Mapping[str, Any], *, chat: bool
) -> Iterator[Item]:
    """The items of one task; `facts` are common to all rows and part of their ids."""
    if order == "paper" and task in CONTEXT_FIRST:
        template = context_first(template)
    for number, row in enumerate(rows):
        before, context, after = fill(template, _fields(task, row), task=task)
        names = [*facts.values(), number]
        yield Item(
            task=task,
            id="-".join(str(name) for name in names if name is not None),
            before=before,
            context=context,
            after=after,
            answers=_answers(task, row),
            max_new_tokens=MAX_NEW_TOKENS[task],
            chat=chat,
            facts={**facts, **row.get("facts", {})},
        )


def _fields(task: str, row: Mapping[str, Any]) -> dict[str, str]:
    """The values of the fields that the task's template may have."""
    question = str(row["input"])
    fields = {"context": str(row["context"]), "input": question, "question": question}
    if task == "math_find":
        target = re.search(r"The [\w -]*?number", question)
        fields["prefix"] = f"What is {target[0].lower() if target else 'the number'} in the following list?"
    if task == "code_run":
        call = re.search(r"(func_\d+)\(-?\d+\)", question)
        if call is None:
            raise EvaluationError(f"The input {question!r} of code_run has no call, such as func_12(7); see the row.")
        fields |= {"func": call[1], "func_call": call[0]}
    options = row.get("options") or ()
    if task in _CHOICES and len(options) < 4:
        raise EvaluationError(f"A row of {task} has {len(options)} options, and four are needed; see the row.")
    for letter, option in zip("ABCD", options, strict=False):
        fields[f"OPTION_{letter}"] = str(option)
    return fields


def _answers(task: str, row: Mapping[str, Any]) -> list[Any]:
    """The gold answers for the scorers; for multiple choice the option's text and its letter."""
    answers = list(row["answer"]) if isinstance(row["answer"], list) else [row["answer"]]
    if not answers:
        raise EvaluationError(f"A row of {task} has no answer; see its field answer.")
    if task in _CHOICES and len(answers) == 1:
        options = [str(option) for option in row.get("options") or ()]
        if str(answers[0]) not in options[:4]:
            raise EvaluationError(f"The answer {answers[0]!r} of a row of {task} is not one of its options.")
        answers.append("ABCD"[options.index(str(answers[0]))])
    return answers
