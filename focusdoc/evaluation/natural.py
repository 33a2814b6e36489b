"""Natural questions of long documents: novels, or the passages of a question-answering file joined to one document.

Three kinds of files are read, told apart by what they hold:

- patterns, ``{"document": [{"question": ..., "answer": "a regular expression that a right answer matches"}]}``, with
  the documents in a folder beside it;
- SQuAD's, whose paragraphs in their order, with blank lines between, become one document;
- JSON lines with ``question``, ``answers`` and ``ctxs``, of which the first is the passage that answers: passages are
  drawn, and joined to one document.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import regex

from focusdoc.documents import LoadLimits, load
from focusdoc.errors import EvaluationError
from focusdoc.evaluation.item import Item, Span
from focusdoc.evaluation.natural_scores import PATTERN_TASK, TEXT_TASK, matches

#: Tokens of an answer.
MAX_NEW_TOKENS = 48
#: Passages that are joined to one document, where the file leaves that open.
POOL = 500
#: Bytes of a file, unpacked.
MAX_BYTES = LoadLimits.max_bytes
_BETWEEN = "\n\n"
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which questions of a file are asked.

    Attributes:
        share: from where to where of the file's questions, in their order, from 0 to 1; of a file with several
            documents, of its documents, so that what is tuned on shares none with what is reported.
        limit: at most this many of them, drawn; None for all.
        pool: how many passages are drawn for the document, where the file leaves that open.
        seed: of both draws.
    """

    share: tuple[float, float] = (0.0, 1.0)
    limit: int | None = None
    pool: int = POOL
    seed: int = 0

    def of(self, values: Sequence[Any]) -> Sequence[Any]:
        """The share of `values`."""
        first, last = (round(part * len(values)) for part in self.share)
        return values[first:last]

    def drawn(self, values: Sequence[Any], count: int | None, what: str) -> list[Any]:
        """`count` of `values` in their order, or all where that is none or more."""
        places: Sequence[int] = range(len(values))
        if count is not None and count < len(values):
            places = sorted(random.Random(f"{what} {self.seed}").sample(places, count))
        return [values[place] for place in places]


def load_items(
    path: Path, choice: Choice, *, documents: Path | None = None, max_new_tokens: int = MAX_NEW_TOKENS
) -> list[Item]:
    """The questions of a file, those of one document after another.

    Args:
        path: of one of the kinds above; gzipped or not.
        max_new_tokens: of an answer.
        documents: the folder with the documents that a file of patterns names, as ``NAME.txt``.

    Raises:
        EvaluationError: the file is of another kind, damaged or too large, or there is nothing to ask.
        DocumentError: a document cannot be loaded.
    """
    values = _read(path)
    try:
        if isinstance(values, list):
            items = _of_rows(values, choice)
        elif isinstance(values.get("data"), list):
            items = _of_squad(values, choice)
        else:
            items = _of_patterns(values, choice, documents)
        found = list(items)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise EvaluationError(
            f"{path} is no file of questions ({type(error).__name__}: {error}); it must be one of patterns, SQuAD's, "
            "or JSON lines with question, answers and ctxs."
        ) from error
    if not found:
        raise EvaluationError(f"{path} has no question between {choice.share[0]:g} and {choice.share[1]:g} of it.")
    return [replace(item, max_new_tokens=max_new_tokens) for item in choice.drawn(found, choice.limit, "questions")]


def _of_patterns(values: dict[str, Any], choice: Choice, folder: Path | None) -> Iterator[Item]:
    if folder is None:
        raise EvaluationError("The documents are in a folder of their own; name it with --documents.")
    for name, rows in choice.of(list(values.items())):
        if Path(name).name != name:
            raise EvaluationError(f"The document is named {name!r}; a name without folders is needed.")
        text = load(folder / f"{name}.txt").text
        for number, row in enumerate(rows):
            places = matches(row["answer"], text)
            yield _item(PATTERN_TASK, f"{name}-{number}", name, text, row["question"], [row["answer"]], places)


def _of_squad(values: dict[str, Any], choice: Choice) -> Iterator[Item]:
    paragraphs = [paragraph for article in values["data"] for paragraph in article["paragraphs"]]
    text, starts = _joined([paragraph["context"] for paragraph in paragraphs])
    asked = [(start, row) for start, one in zip(starts, paragraphs, strict=True) for row in one["qas"]]
    for start, row in choice.of(asked):
        # A question without answers is one that the paragraph does not tell (SQuAD 2.0).
        if golds := row["answers"]:
            places = [_place(text, start + gold["answer_start"], gold["text"]) for gold in golds]
            answers = list(dict.fromkeys(gold["text"] for gold in golds))
            yield _item(TEXT_TASK, row["id"], "paragraphs", text, row["question"], answers, places)


def _of_rows(values: list[dict[str, Any]], choice: Choice) -> Iterator[Item]:
    numbered = choice.of(list(enumerate(values)))
    known = list(dict.fromkeys(row["ctxs"][0]["text"].strip() for _, row in numbered))
    drawn = choice.drawn(known, choice.pool, "passages")
    random.Random(f"order {choice.seed}").shuffle(drawn)
    text, starts = _joined(drawn)
    start_of = dict(zip(drawn, starts, strict=True))
    for number, row in numbered:
        passage = row["ctxs"][0]["text"].strip()
        if (start := start_of.get(passage)) is not None:
            places = [(start + first, start + last) for gold in row["answers"] for first, last in _all(gold, passage)]
            if places:  # an answer spelt otherwise than in the passage has no place
                yield _item(TEXT_TASK, str(number), "passages", text, row["question"], row["answers"], places)


def _item(
    task: str, name: str, document: str, text: str, question: str, answers: list[str], places: Sequence[Span]
) -> Item:
    if not answers or not all(isinstance(each, str) and each for each in (question, *answers)):
        raise ValueError(f"the question {name!r} or its answers are no texts")
    return Item(
        task=task,
        id=name,
        before="",
        context=text,
        after=f"\n\n{question}",
        answers=answers,
        max_new_tokens=MAX_NEW_TOKENS,
        facts={"document": document},
        places=tuple(places),
    )


def _joined(parts: Sequence[str]) -> tuple[str, list[int]]:
    """The parts with blank lines between, and where each begins."""
    starts = [0]
    for part in parts[:-1]:
        starts.append(starts[-1] + len(part) + len(_BETWEEN))
    return _BETWEEN.join(parts), starts


def _place(text: str, start: int, gold: str) -> Span:
    if text[start : start + len(gold)] != gold:
        raise ValueError(f"the answer {gold!r} does not stand at its place")
    return start, start + len(gold)


def _all(gold: str, passage: str) -> Iterator[Span]:
    """Where an answer stands in its passage, whole words of any case."""
    bounded = rf"(?<!\w){regex.escape(gold)}(?!\w)"
    return (found.span() for found in regex.finditer(bounded, passage, regex.IGNORECASE))


def _read(path: Path) -> Any:
    """What a file holds: one JSON object, or the rows of JSON lines as a list."""
    try:
        with path.open("rb") as file:
            packed = file.read(len(_GZIP)) == _GZIP
        with gzip.open(path) if packed else path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise EvaluationError(f"{path} takes more than {MAX_BYTES:,} bytes; give a part of it.")
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
        raise EvaluationError(f"{path} holds a {type(values).__name__}; it must be a JSON object, or lines of them.")
    return values
