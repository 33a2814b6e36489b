"""Prompt templates of the benchmarks: filled by plain substitution, and put in the paper's order."""

from __future__ import annotations

import re
from collections.abc import Mapping

from focusdoc.errors import EvaluationError

_FIELD = re.compile(r"\{(\w+)\}")
CONTEXT = "context"


def fill(template: str, fields: Mapping[str, str], *, task: str) -> tuple[str, str, str]:
    """A template with its fields filled in, as the text (before, context, after).

    Only the template is searched for fields. What is filled in is data: braces in it stay as they are.

    Args:
        fields: the value of every field that may occur, ``context`` among them.

    Raises:
        EvaluationError: the template has a field that is not known, or not exactly one context.
    """
    names = _FIELD.findall(template)
    unknown = next((name for name in names if name not in fields), None)
    if unknown is not None:
        raise EvaluationError(
            f"The template of {task} has the unknown field {{{unknown}}}; known are {', '.join(sorted(fields))}."
        )
    if names.count(CONTEXT) != 1:
        raise EvaluationError(f"The template of {task} must have the field {{context}} exactly once.")
    before, after = template.split("{context}")
    return _substitute(before, fields), fields[CONTEXT], _substitute(after, fields)


def context_first(template: str) -> str:
    """The template with its instruction moved behind the context, nothing reworded.

    The paper's authors do so for some tasks, since the question has to stand in the local context. A label that
    stands right before the context ("Report:") stays there.
    """
    before, context, after = template.partition("{context}")
    if not context:
        return template
    instruction, _, label = before.rpartition("\n\n")
    if not instruction.strip():
        return template
    return f"{label}{{context}}\n\n{instruction.strip()}\n\n{after.lstrip()}"


def _substitute(part: str, fields: Mapping[str, str]) -> str:
    return _FIELD.sub(lambda found: fields[found[1]], part)
