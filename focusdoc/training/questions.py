"""Questions from files: (context, question, answer) triples to train on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from focusdoc.errors import TrainingError


def load_questions(path: Path) -> list[tuple[str, str, str]]:
    """(context, question, answer) triples of a SQuAD-like JSON file or a JSONL file with those three fields.

    Questions without an answer are left out.

    Raises:
        TrainingError: the file is neither, or has no question with an answer.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found = list(_rows(text) if path.suffix == ".jsonl" else _squad(text))
        if not all(isinstance(part, str) for triple in found for part in triple):
            raise TypeError("context, question and answer must be texts")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(
            f"{path} is neither SQuAD-like JSON nor JSONL with context, question and answer ({error!r})."
        ) from error
    answered = [triple for triple in found if triple[2].strip()]
    if not answered:
        raise TrainingError(f"{path} holds no question with an answer.")
    return answered


def _rows(text: str) -> Iterator[tuple[str, str, str]]:
    for line in text.split("\n"):  # splitlines would cut at line separators inside the JSON
        if line.strip():
            row = json.loads(line)
            yield row["context"], row["question"], row["answer"]


def _squad(text: str) -> Iterator[tuple[str, str, str]]:
    for article in json.loads(text)["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                if asked.get("answers"):
                    yield paragraph["context"], asked["question"], asked["answers"][0]["text"]
