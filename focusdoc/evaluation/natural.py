"""Natural questions about long documents: novels, or the passages of a question-answering file joined to one document.

The format of a file is detected from its contents:

- patterns, ``{"document": [{"question": ..., "answer": "a regular expression that a right answer matches"}]}``, with
  the documents in a folder; ``"places"`` says what answers it, as ``[start, end]`` characters or as quotations, by
  default all matches;
- SQuAD, whose paragraphs are joined with blank lines to one document;
- JSON lines with ``question``, ``answers`` and ``ctxs``, whose first passage has the answer; sampled passages are
  joined to one document.
"""

from __future__ import annotations

import glob
import gzip
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import regex

from focusdoc.documents import LoadLimits, load
from focusdoc.errors import EvaluationError
from focusdoc.evaluation.item import Item, Span
from focusdoc.evaluation.natural_scores import PATTERN_TASK, TEXT_TASK, matches

#: Tokens of an answer.
MAX_NEW_TOKENS = 48
#: Default number of passages that are joined to one document (JSON lines).
POOL = 500
#: Most bytes of a file, unpacked.
MAX_BYTES = LoadLimits.max_bytes
_BETWEEN = "\n\n"
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which questions of a file are asked.

    Attributes:
        share: the range of the file's questions, from 0 to 1; in a file with several documents the range of documents,
            so that tuning and test questions share none.
        limit: sample at most this many of them; None for all.
        pool: passages that are sampled for the document (JSON lines).
    """

    share: tuple[float, float] = (0.0, 1.0)
    limit: int | None = None
    pool: int = POOL
    seed: int = 0

    def of(self, values: Sequence[Any]) -> Sequence[Any]:
        """The slice of `values` within `share`."""
        first, last = (round(part * len(values)) for part in self.share)
        return values[first:last]

    def sample(self, values: Sequence[Any], count: int | None, what: str) -> list[Any]:
        """A sample, seeded by `seed` and `what`, of `count` values in their order; all if `count` is None or larger."""
        indices: Sequence[int] = range(len(values))
        if count is not None and count < len(values):
            indices = sorted(random.Random(f"{what} {self.seed}").sample(indices, count))
        return [values[index] for index in indices]


def load_items(
    path: Path, choice: Choice, *, documents: Path | None = None, max_new_tokens: int = MAX_NEW_TOKENS
) -> list[Item]:
    """The questions of a file in one of the formats above, gzipped or not, grouped by document.

    The documents of a file of patterns are in the folder `documents`, as ``NAME.txt``, ``NAME.pdf`` or the like.

    Raises:
        EvaluationError: the file has another format, is damaged or too large, or there is no question.
        DocumentError: a document cannot be loaded.
    """
    values = _read(path)
    try:
        if isinstance(values, list):
            found = list(_of_rows(values, choice))
        elif isinstance(values.get("data"), list):
            found = list(_of_squad(values, choice))
        else:
            found = list(_of_patterns(values, choice, documents))
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise EvaluationError(
            f"{path} is not a file of questions ({type(error).__name__}: {error}); give one of patterns, SQuAD's "
            "JSON, or JSON lines with question, answers and ctxs."
        ) from error
    if not found:
        raise EvaluationError(f"{path} has no question between {choice.share[0]:g} and {choice.share[1]:g} of it.")
    return [replace(item, max_new_tokens=max_new_tokens) for item in choice.sample(found, choice.limit, "questions")]


def _of_patterns(values: dict[str, Any], choice: Choice, folder: Path | None) -> Iterator[Item]:
    if folder is None:
        raise EvaluationError("A file of patterns needs its documents; name their folder with --documents.")
    for name, rows in choice.of(list(values.items())):
        if Path(name).name != name:
            raise EvaluationError(f"The document is named {name!r}; it must be a name without folders.")
        text = load(_file_of(name, folder)).text
        for number, row in enumerate(rows):
            found = _quoted(row["places"], text) if "places" in row else matches(row["answer"], text)
            places = [(start, end) for start, end in found]
            if not all(0 <= start < end <= len(text) for start, end in places):
                raise ValueError(f"the places {places} of {row['question']!r} are not within its document")
            yield _item(PATTERN_TASK, f"{name}-{number}", name, text, row["question"], [row["answer"]], places)


def _file_of(name: str, folder: Path) -> Path:
    files = sorted(folder.glob(f"{glob.escape(name)}.*"))
    if len(files) > 1:
        names = ", ".join(each.name for each in files)
        raise EvaluationError(f"{folder} has several documents for {name!r}: {names}; leave one of them there.")
    return files[0] if files else folder / f"{name}.txt"  # which then is named as missing


def _quoted(places: Sequence[Span | str], text: str) -> Iterator[Span]:
    """The places, with quotations replaced by all their occurrences; white space may differ."""
    for place in places:
        if isinstance(place, str):
            found = [each.span() for each in regex.finditer(r"\s+".join(map(regex.escape, place.split())), text)]
            if not found:
                raise ValueError(f"{place!r} is not in the document")
            yield from found
        else:
            yield place


def _of_squad(values: dict[str, Any], choice: Choice) -> Iterator[Item]:
    paragraphs = [paragraph for article in values["data"] for paragraph in article["paragraphs"]]
    text, starts = _joined([paragraph["context"] for paragraph in paragraphs])
    questions = [(start, row) for start, each in zip(starts, paragraphs, strict=True) for row in each["qas"]]
    for start, row in choice.of(questions):
        # SQuAD 2.0 has questions without answers.
        if golds := row["answers"]:
            places = [_place(text, start + gold["answer_start"], gold["text"]) for gold in golds]
            answers = list(dict.fromkeys(gold["text"] for gold in golds))
            yield _item(TEXT_TASK, row["id"], "paragraphs", text, row["question"], answers, places)


def _of_rows(values: list[dict[str, Any]], choice: Choice) -> Iterator[Item]:
    numbered = choice.of(list(enumerate(values)))
    known = list(dict.fromkeys(row["ctxs"][0]["text"].strip() for _, row in numbered))
    sample = choice.sample(known, choice.pool, "passages")
    random.Random(f"order {choice.seed}").shuffle(sample)
    text, starts = _joined(sample)
    start_of = dict(zip(sample, starts, strict=True))
    for number, row in numbered:
        passage = row["ctxs"][0]["text"].strip()
        if (start := start_of.get(passage)) is not None:
            places = [(start + first, start + last) for gold in row["answers"] for first, last in _all(gold, passage)]
            if places:  # an answer spelt differently in the passage is skipped
                yield _item(TEXT_TASK, str(number), "passages", text, row["question"], row["answers"], places)


def _item(
    task: str, name: str, document: str, text: str, question: str, answers: list[str], places: Sequence[Span]
) -> Item:
    if not answers or not all(isinstance(each, str) and each for each in (question, *answers)):
        raise ValueError(f"the question {name!r} or its answers are not strings")
    return Item(
        task=task,
        id=name,
        context=text,
        after=f"\n\n{question}",
        answers=answers,
        max_new_tokens=MAX_NEW_TOKENS,
        facts={"document": document},
        places=tuple(places),
    )


def _joined(parts: Sequence[str]) -> tuple[str, list[int]]:
    """The parts joined with blank lines, and where each starts."""
    starts = accumulate((len(part) + len(_BETWEEN) for part in parts[:-1]), initial=0)
    return _BETWEEN.join(parts), list(starts)


def _place(text: str, start: int, gold: str) -> Span:
    if text[start : start + len(gold)] != gold:
        raise ValueError(f"the answer {gold!r} is not at its answer_start")
    return start, start + len(gold)


def _all(gold: str, passage: str) -> Iterator[Span]:
    """All occurrences of an answer in its passage, as whole words of any case."""
    bounded = rf"(?<!\w){regex.escape(gold)}(?!\w)"
    return (found.span() for found in regex.finditer(bounded, passage, regex.IGNORECASE))


def _read(path: Path) -> Any:
    """Load a file: one JSON object, or JSON lines as a list."""
    try:
        with path.open("rb") as file:
            packed = file.read(len(_GZIP)) == _GZIP
        with gzip.open(path) if packed else path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise EvaluationError(f"{path} has more than {MAX_BYTES:,} bytes; give a part of it.")
        text = data.decode("utf-8")
        try:
            values = json.loads(text)
        except ValueError:
            values = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise EvaluationError(f"{path} cannot be read as JSON or lines of JSON ({error}).") from error
    if isinstance(values, dict) and "ctxs" in values:
        return [values]  # a file of one line
    if not isinstance(values, dict | list):
        raise EvaluationError(f"{path} is a {type(values).__name__}; it must be a JSON object, or lines of them.")
    return values
