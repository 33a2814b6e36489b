"""LongBench: the 15 tasks of the paper's Table 6, from the official files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from focusdoc.errors import EvaluationError
from focusdoc.evaluation.files import context_first, fill, read_json, read_rows, task_file
from focusdoc.evaluation.item import Item
from focusdoc.evaluation.scores import LONGBENCH_SCORES

#: The tasks of the paper's Table 6, grouped as there.
KINDS: dict[str, tuple[str, ...]] = {
    "single-document QA": ("narrativeqa", "qasper", "multifieldqa_en"),
    "multi-document QA": ("hotpotqa", "2wikimqa", "musique"),
    "summarization": ("gov_report", "qmsum", "multi_news"),
    "few-shot learning": ("trec", "triviaqa", "samsum"),
    "synthetic": ("passage_retrieval_en",),
    "code": ("lcc", "repobench-p"),
}
TASKS = tuple(task for tasks in KINDS.values() for task in tasks)
#: Tasks that the paper's authors prompt with the context before the instruction.
CONTEXT_FIRST = frozenset({"gov_report", "qmsum", "multi_news"})
#: Tasks with bare-text prompts, without a chat template.
COMPLETIONS = frozenset({"trec", "triviaqa", "samsum", "lcc", "repobench-p"})
_FIELDS = ("input", "context", "answers", "all_classes", "_id")


def load_items(
    data: Path | None, tasks: Sequence[str] = TASKS, *, limit: int | None = None, order: str = "paper"
) -> Iterator[Item]:
    """The items of `tasks`, in the order of the files, at most `limit` rows of each.

    Args:
        data: the folder with ``<task>.jsonl``, ``dataset2prompt.json`` and ``dataset2maxlen.json``; the latter two may
            be in the subfolder ``config``.
        order: ``"official"`` for the benchmark's prompts, ``"paper"`` for the authors' order.

    Raises:
        EvaluationError: a task is unknown or not in `data`, or a file is invalid.
    """
    for task in tasks:
        if task not in LONGBENCH_SCORES:
            raise EvaluationError(f"The LongBench task {task!r} is unknown; choose from {', '.join(LONGBENCH_SCORES)}.")
    paths = {task: task_file(data, task) for task in tasks}
    if data is None:
        return
    tables = []
    for name in ("dataset2prompt.json", "dataset2maxlen.json"):
        inner = data / "config" / name
        path = inner if inner.is_file() else data / name
        tables.append(read_json(path))
        if missing := next((task for task in paths if task not in tables[-1]), None):
            raise EvaluationError(f"{path} has no entry for {missing}; use the official file.")
    templates, limits = tables
    for task, path in paths.items():
        template = str(templates[task])
        if order == "paper" and task in CONTEXT_FIRST:
            template = context_first(template)
        for row in read_rows(path, _FIELDS, limit=limit):
            fields = {"context": str(row["context"]), "input": str(row["input"])}
            before, context, after = fill(template, fields, task=task)
            yield Item(
                task=task,
                id=str(row["_id"]),
                before=before,
                context=context,
                after=after,
                answers=list(row["answers"]),
                max_new_tokens=int(limits[task]),
                all_classes=row["all_classes"],
                stop=("\n",) if task == "samsum" else (),
                chat=task not in COMPLETIONS,
                facts={"words": row.get("length")},
            )
