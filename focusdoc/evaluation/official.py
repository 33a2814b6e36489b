"""LongBench and InfiniteBench: items from the official rows, filled into the official prompt templates."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from focusdoc.errors import EvaluationError
from focusdoc.evaluation.item import Item
from focusdoc.evaluation.loading import read_json, read_rows
from focusdoc.evaluation.scores import INFINITEBENCH_SCORES, LONGBENCH_SCORES

#: The LongBench tasks of the paper's Table 6, in its order.
LONGBENCH_TASKS = (
    *("narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "musique", "gov_report", "qmsum"),
    *("multi_news", "trec", "triviaqa", "samsum", "passage_retrieval_en", "lcc", "repobench-p"),
)
#: The paper's seven tasks of InfiniteBench.
INFINITEBENCH_TASKS = (
    *("passkey", "number_string", "kv_retrieval", "math_find", "code_debug"),
    *("longbook_choice_eng", "longbook_qa_eng"),
)
#: Tasks that the paper's authors prompt with the context before the instruction.
CONTEXT_FIRST = (
    *("gov_report", "qmsum", "multi_news", "passkey", "number_string", "kv_retrieval"),
    *("longbook_choice_eng", "code_debug"),
)
#: LongBench tasks with bare-text prompts, without a chat template.
COMPLETIONS = frozenset({"trec", "triviaqa", "samsum", "lcc", "repobench-p"})
#: InfiniteBench's limits of new tokens.
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
#: The set of templates that the paper's authors used, for base models, which continue bare text ("The pass key is").
DEFAULT_TEMPLATES = "yarn_mistral_templates"
_CHOICES = frozenset({"code_debug", "longbook_choice_eng"})
_FIELD = re.compile(r"\{(\w+)\}")


def longbench_items(
    data: Path | None, tasks: Sequence[str] = LONGBENCH_TASKS, *, limit: int | None = None, order: str = "paper"
) -> Iterator[Item]:
    """The items of LongBench tasks, in the order of the files, at most `limit` rows of each; for `order` see `filled`.

    The folder `data` has ``<task>.jsonl``, and ``dataset2prompt.json`` and ``dataset2maxlen.json``, which may be in its
    subfolder ``config``.

    Raises:
        EvaluationError: a task is unknown or not in `data`, or a file is invalid.
    """
    for task in tasks:
        if task not in LONGBENCH_SCORES:
            raise EvaluationError(f"The LongBench task {task!r} is unknown; choose from {', '.join(LONGBENCH_SCORES)}.")
    paths = {task: _task_file(data, task) for task in tasks}
    folder = data or Path()
    templates, limits = (_table(folder, name, tasks) for name in ("dataset2prompt.json", "dataset2maxlen.json"))
    for task, path in paths.items():
        for row in read_rows(path, ("input", "context", "answers", "all_classes", "_id"), limit=limit):
            yield filled(
                str(templates[task]),
                {name: str(row[name]) for name in ("context", "input")},
                order,
                task=task,
                id=str(row["_id"]),
                answers=list(row["answers"]),
                max_new_tokens=int(limits[task]),
                all_classes=row["all_classes"],
                stop=("\n",) if task == "samsum" else (),
                chat=task not in COMPLETIONS,
                facts={"words": row.get("length")},
            )


def infinitebench_items(
    data: Path,
    tasks: Sequence[str] = INFINITEBENCH_TASKS,
    *,
    limit: int | None = None,
    order: str = "paper",
    templates: str = DEFAULT_TEMPLATES,
) -> Iterator[Item]:
    """The items of InfiniteBench tasks, as `longbench_items`.

    The folder `data` has ``<task>.jsonl`` and ``prompts.json``, with the set of `templates`. A file name may have a
    number after the task, such as ``passkey_8192.jsonl``; its task is then ``passkey_8192``.

    Raises:
        EvaluationError: a task is unknown or not in `data`, or a file is invalid.
    """
    paths = {name: _task_file(data, name) for name in tasks if base_task(name)}
    prompts = read_json(data / "prompts.json")
    if templates not in prompts:
        raise EvaluationError(f"{data / 'prompts.json'} has no {templates!r}; it has {', '.join(sorted(prompts))}.")
    chat = templates != DEFAULT_TEMPLATES
    for name, path in paths.items():
        task = base_task(name)
        if (template := prompts[templates].get(task)) is None:
            raise EvaluationError(
                f"{data / 'prompts.json'} has no template of {task} in {templates}; choose another set."
            )
        fields = ("context", "input", "answer", *(["options"] if task in _CHOICES else []))
        for number, row in enumerate(read_rows(path, fields, limit=limit)):
            key, facts = f"{name}-{number}", {"file": name}
            yield infinitebench_item(task, key, row, str(template), order, chat=chat, facts=facts)


def base_task(name: str) -> str:
    """The official name of an InfiniteBench task, from its file name; EvaluationError if there is no such task."""
    task = re.sub(r"_\d+\Z", "", name)
    if task not in INFINITEBENCH_SCORES:
        known = ", ".join(INFINITEBENCH_SCORES)
        raise EvaluationError(f"The InfiniteBench task {name!r} is unknown; choose from {known}.")
    return task


def infinitebench_item(
    task: str, name: str, row: Mapping[str, Any], template: str, order: str, *, chat: bool, facts: Mapping[str, Any]
) -> Item:
    """The item of one row (`context`, `input` and `answer`), called `name`; EvaluationError if the row is invalid."""
    question, answer, options = str(row["input"]), row["answer"], [str(option) for option in row.get("options") or ()]
    fields = {"context": str(row["context"]), "input": question, "question": question}
    answers = list(answer) if isinstance(answer, list) else [answer]
    if not answers:
        raise EvaluationError(f"A row of {task} has no answer; see its field answer.")
    if task == "math_find":
        target = re.search(r"The [\w -]*?number", question)
        fields["prefix"] = f"What is {target[0].lower() if target else 'the number'} in the following list?"
    if task == "code_run":
        call = re.search(r"(func_\d+)\(-?\d+\)", question)
        if call is None:
            raise EvaluationError(f"The input {question!r} of code_run has no call, such as func_12(7); see the row.")
        fields |= {"func": call[1], "func_call": call[0]}
    if task in _CHOICES:
        if len(options) < 4:
            raise EvaluationError(f"A row of {task} has {len(options)} options, and four are needed; see the row.")
        fields |= {f"OPTION_{letter}": option for letter, option in zip("ABCD", options, strict=False)}
        if len(answers) == 1:  # scored by the option's text and its letter
            if str(answers[0]) not in options[:4]:
                raise EvaluationError(f"The answer {answers[0]!r} of a row of {task} is not one of its options.")
            answers.append("ABCD"[options.index(str(answers[0]))])
    more = {"answers": answers, "max_new_tokens": MAX_NEW_TOKENS[task], "chat": chat, "facts": facts}
    return filled(template, fields, order, task=task, id=name, **more)


def filled(template: str, fields: Mapping[str, str], order: str, *, task: str, **more: Any) -> Item:
    """An item whose prompt is a template filled in; braces in the values stay as they are.

    Args:
        order: ``"official"`` is that of the benchmark; with ``"paper"`` the context comes first in the tasks where the
            paper's authors have it so.
        more: the item's other attributes.

    Raises:
        EvaluationError: the template has a field that is not in `fields`, or not exactly one context.
    """
    if order == "paper" and task in CONTEXT_FIRST:
        template = context_first(template)
    names = _FIELD.findall(template)
    for name in names:
        if name not in fields:
            known = ", ".join(sorted(fields))
            raise EvaluationError(f"The template of {task} has the unknown field {{{name}}}; known are {known}.")
    if names.count("context") != 1:
        raise EvaluationError(f"The template of {task} must have the field {{context}} exactly once.")
    before, after = (_FIELD.sub(lambda found: fields[found[1]], part) for part in template.split("{context}"))
    return Item(task=task, before=before, context=fields["context"], after=after, **more)


def context_first(template: str) -> str:
    """The template with its instruction moved behind the context, verbatim.

    The paper's authors do so for some tasks, to have the instruction in the local context. A label right before the
    context ("Report:") stays there.
    """
    before, context, after = template.partition("{context}")
    instruction, _, label = before.rpartition("\n\n")
    if not context or not instruction.strip():
        return template
    return f"{label}{{context}}\n\n{instruction.strip()}\n\n{after.lstrip()}"


def _task_file(data: Path | None, task: str) -> Path:
    """The official file of a task in the folder `data`; EvaluationError, with the tasks there are, if it is missing."""
    if data is None:
        raise EvaluationError(f"{task} needs the benchmark's official files; give their folder with --data.")
    if not data.is_dir():
        raise EvaluationError(f"The data folder {data} does not exist; give the one with the official files.")
    path = data / f"{task}.jsonl"
    if not path.is_file():
        available = ", ".join(sorted(found.stem for found in data.glob("*.jsonl"))) or "none"
        raise EvaluationError(f"{data} has no {path.name}; the tasks in it: {available}.")
    return path


def _table(folder: Path, name: str, tasks: Sequence[str]) -> dict[str, Any]:
    """A table of LongBench, which may be in the subfolder ``config``; EvaluationError if it lacks one of `tasks`."""
    inner = folder / "config" / name
    path = inner if inner.is_file() else folder / name
    table = read_json(path)
    if missing := next((task for task in tasks if task not in table), None):
        raise EvaluationError(f"{path} has no entry for {missing}; use the official file.")
    return table
