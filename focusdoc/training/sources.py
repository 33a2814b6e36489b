"""From paths to training data: texts to plant facts in, and files of questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from focusdoc.errors import TrainingError
from focusdoc.training.questions import load_questions

TEXT_SUFFIXES = (".txt", ".md", ".markdown", ".pdf")
QUESTION_SUFFIXES = (".json", ".jsonl")
#: Names in the adapter's record, of each kind.
_NAMED = 200


@dataclass(frozen=True, slots=True)
class Sources:
    """What a run learns from.

    Attributes:
        texts: text files, not read yet.
        question_files: files of questions. questions: the (context, question, answer) triples in them.
    """

    texts: tuple[Path, ...]
    question_files: tuple[Path, ...]
    questions: tuple[tuple[str, str, str], ...]

    def describe(self) -> dict[str, Any]:
        """What the adapter's record tells of them: names without folders, and counts."""
        return {
            "texts": len(self.texts),
            "text_files": [path.name for path in self.texts[:_NAMED]],
            "questions": len(self.questions),
            "question_files": [path.name for path in self.question_files[:_NAMED]],
        }


def gather_sources(paths: Sequence[Path], *, without: Sequence[Path] = ()) -> Sources:
    """Sort files, and the files in folders at any depth, by what they are; their suffixes decide.

    Args:
        without: text files to leave out (those held out).

    Raises:
        TrainingError: a path is not there, is of neither kind, is empty, or is a folder without a usable file; a
            file of questions is damaged.
    """
    left_out = {path.resolve() for path in without}
    texts: dict[Path, None] = {}  # in order, each once
    question_files: dict[Path, None] = {}
    for path in paths:
        for file in _files(path):
            kind = texts if file.suffix.lower() in TEXT_SUFFIXES else question_files
            if file.resolve() not in left_out:
                kind[file] = None
    questions = [triple for file in question_files for triple in load_questions(file)]
    return Sources(tuple(texts), tuple(question_files), tuple(questions))


def _files(path: Path) -> list[Path]:
    known = (*TEXT_SUFFIXES, *QUESTION_SUFFIXES)
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in known and file.is_file())
        found = [file for file in found if file.stat().st_size]
        if not found:
            raise TrainingError(f"The folder {path} holds no data; files ending in {', '.join(known)} are used.")
        return found
    if not path.exists():
        raise TrainingError(f"There is no data at {path}; check the path.")
    if path.suffix.lower() not in known:
        raise TrainingError(f"{path} is no data that can be trained on; files end in one of {', '.join(known)}.")
    if path.stat().st_size == 0:
        raise TrainingError(f"{path} is empty; give a file with text in it.")
    return [path]
