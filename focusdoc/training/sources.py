"""Loading training data: texts to plant facts in, and files of (context, question, answer) triples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from focusdoc.errors import TrainingError

TEXT_SUFFIXES = (".txt", ".md", ".markdown", ".pdf")
QUESTION_SUFFIXES = (".json", ".jsonl")
#: Most file names of each kind in the adapter's record.
_MAX_NAMES = 200


@dataclass(frozen=True, slots=True)
class Sources:
    """The data of a run: text files, not loaded yet, and the (context, question, answer) triples of question files."""

    texts: tuple[Path, ...]
    question_files: tuple[Path, ...]
    questions: tuple[tuple[str, str, str], ...]

    def describe(self) -> dict[str, Any]:
        """The names without folders, and the counts, for the adapter's record."""
        return {
            "texts": len(self.texts),
            "text_files": [path.name for path in self.texts[:_MAX_NAMES]],
            "questions": len(self.questions),
            "question_files": [path.name for path in self.question_files[:_MAX_NAMES]],
        }


def load_sources(paths: Sequence[Path], *, exclude: Sequence[Path] = ()) -> Sources:
    """Find texts and question files by suffix, in `paths` at any depth, but for `exclude`, and load the questions.

    Raises:
        TrainingError: a path does not exist, has another suffix or is empty, a folder has no usable file, or a file of
            questions is damaged.
    """
    excluded = {path.resolve() for path in exclude}
    files = dict.fromkeys(file for path in paths for file in _files(path) if file.resolve() not in excluded)
    texts = tuple(file for file in files if file.suffix.lower() in TEXT_SUFFIXES)
    question_files = tuple(file for file in files if file.suffix.lower() not in TEXT_SUFFIXES)
    questions = [triple for file in question_files for triple in load_questions(file)]
    return Sources(texts, question_files, tuple(questions))


def _files(path: Path) -> list[Path]:
    known = (*TEXT_SUFFIXES, *QUESTION_SUFFIXES)
    if path.is_dir():
        files = (file for file in sorted(path.rglob("*")) if file.suffix.lower() in known and file.is_file())
        found = [file for file in files if file.stat().st_size]
        if not found:
            raise TrainingError(f"The folder {path} has no data; files ending in {', '.join(known)} are used.")
        return found
    if not path.exists():
        raise TrainingError(f"There is no data at {path}; check the path.")
    if path.suffix.lower() not in known:
        raise TrainingError(f"{path} is not training data; give files ending in {', '.join(known)}.")
    if path.stat().st_size == 0:
        raise TrainingError(f"{path} is empty; give a file with text in it.")
    return [path]


def load_questions(path: Path) -> list[tuple[str, str, str]]:
    """(context, question, answer) triples of a SQuAD-like JSON file or a JSONL file, but for those without an answer.

    Raises:
        TrainingError: the file has neither format, or no question with an answer.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".jsonl":
            # splitlines would cut at line separators inside the JSON
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
            found = [(row["context"], row["question"], row["answer"]) for row in rows]
        else:
            found = [
                (paragraph["context"], row["question"], row["answers"][0]["text"])
                for article in json.loads(text)["data"]
                for paragraph in article["paragraphs"]
                for row in paragraph["qas"]
                if row.get("answers")
            ]
        if not all(isinstance(part, str) for triple in found for part in triple):
            raise TypeError("context, question and answer must be strings")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(
            f"{path} is neither SQuAD-like JSON nor JSONL with context, question and answer ({error!r})."
        ) from error
    answered = [triple for triple in found if triple[2].strip()]
    if not answered:
        raise TrainingError(f"{path} has no question with an answer.")
    return answered
