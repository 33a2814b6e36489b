"""Plants facts in wordings that no training template has (benchmarks/wordings.json) in novels, with questions.

    python benchmarks/wordings.py --data ../shared/data --output runs/wordings
    focusdoc eval natural --data runs/wordings/questions.json --documents runs/wordings --mode read,bm25 --reader NAME \
      --output runs/read

Each text is a part of a held-out novel with ten facts of different kinds (dialogue, narration, songs, lists ...)
between random paragraphs. The place of a fact are the words of its answer; an answer is right if the fact's pattern
matches it. `--part tuning` takes other facts, to try changes on.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from novel import NOVELS

from focusdoc import load
from focusdoc.decoding.prompt import encode_text
from focusdoc.evaluation.natural_scores import matches
from focusdoc.modeling.base import load_base

#: The facts of each part; nothing may be tuned on those held out.
WORDINGS = {
    "held out": Path(__file__).with_suffix(".json"),
    "tuning": Path(__file__).with_name("wordings_tuning.json"),
}
#: Facts in one text.
PER_TEXT = 10
#: Characters of a line of prose, about as in the novels.
LINE = 72


@dataclass(frozen=True)
class Wording:
    """A fact as in a novel, a question about it, and a pattern that right answers match."""

    kind: str
    text: str
    question: str
    answer: str


@dataclass(frozen=True)
class Planted:
    """A text, and the characters of the planted facts, in the order of the facts."""

    text: str
    spans: list[tuple[int, int]]


def load_wordings(part: str = "held out") -> list[Wording]:
    return [Wording(**fact) for fact in json.loads(WORDINGS[part].read_text(encoding="utf-8"))]


def distribute(wordings: Sequence[Wording], per_text: int = PER_TEXT) -> list[list[Wording]]:
    """Distribute the facts over texts, every kind evenly."""
    count = -(-len(wordings) // per_text)
    by_kind = sorted(wordings, key=lambda wording: wording.kind)
    return [by_kind[first::count] for first in range(count)]


def paragraphs(text: str) -> list[str]:
    return [part for part in re.split(r"\n\s*\n", text) if part.strip()]


def as_printed(text: str) -> str:
    """Wrap a fact to the width of a novel's lines; shorter lines (verse, lists, tables) are unchanged."""
    return "\n".join(
        line if len(line) <= LINE else textwrap.fill(line, LINE, break_long_words=False, break_on_hyphens=False)
        for line in text.split("\n")
    )


def paragraph_range(sizes: Sequence[int], room: int, rng: random.Random) -> slice:
    """A random range of consecutive paragraphs with at most `room` tokens.

    Args:
        sizes: tokens of every paragraph of a novel with more than `room` tokens.
    """
    before = [0, *accumulate(sizes)]
    first = rng.choice([index for index in range(len(sizes)) if before[-1] - before[index] >= room])
    last = max(index for index in range(first, len(before)) if before[index] - before[first] <= room)
    return slice(first, last)


def plant(paragraphs: Sequence[str], facts: Sequence[str], rng: random.Random) -> Planted:
    """The paragraphs with each fact between two of them, at most one at each place."""
    places = dict(zip(rng.sample(range(1, len(paragraphs)), len(facts)), range(len(facts)), strict=True))
    text, spans = paragraphs[0], [(0, 0)] * len(facts)
    for number, paragraph in enumerate(paragraphs[1:], start=1):
        if number in places:
            start = len(text) + 2
            text = f"{text}\n\n{facts[places[number]]}"
            spans[places[number]] = (start, len(text))
        text = f"{text}\n\n{paragraph}"
    return Planted(text, spans)


def planted_novel(tokenizer: Any, novel: str, wordings: Sequence[Wording], tokens: int, rng: random.Random) -> Planted:
    """`tokens` tokens of a novel with facts, within about 1%, since paragraphs are counted separately."""
    facts = [as_printed(wording.text) for wording in wordings]
    parts = paragraphs(novel)
    room = tokens - sum(len(encode_text(tokenizer, f"{fact}\n\n")) for fact in facts)
    sizes = [len(encode_text(tokenizer, f"{paragraph}\n\n")) for paragraph in parts]
    return plant(parts[paragraph_range(sizes, room, rng)], facts, rng)


def answer_places(planted: Planted, number: int, answer: str) -> list[tuple[int, int]]:
    """The characters of the answer's words within their fact."""
    start, end = planted.spans[number]
    in_one_line = planted.text[start:end].replace("\n", " ")
    return [(start + first, start + last) for first, last in matches(answer, in_one_line)]


def write(
    folder: Path, tokenizer: Any, texts: Sequence[Sequence[Wording]], novels: Sequence[str], *, tokens: int, seed: int
) -> None:
    """The texts and their questions, with the places of the answers, as files for `focusdoc eval natural`."""
    folder.mkdir(parents=True, exist_ok=True)
    questions: dict[str, list[dict[str, Any]]] = {}
    for number, wordings in enumerate(texts):
        rng = random.Random(f"wordings-{seed}-{number}")
        planted = planted_novel(tokenizer, novels[number % len(novels)], wordings, tokens, rng)
        questions[str(number)] = [
            {
                "question": wording.question,
                "answer": wording.answer,
                "places": answer_places(planted, at, wording.answer),
                "kind": wording.kind,
            }
            for at, wording in enumerate(wordings)
        ]
        (folder / f"{number}.txt").write_text(planted.text, encoding="utf-8", newline="")
    (folder / "questions.json").write_text(json.dumps(questions, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="holds books/*.txt")
    parser.add_argument("--output", type=Path, required=True, help="the folder for texts and questions")
    parser.add_argument("--part", choices=list(WORDINGS), default="held out")
    parser.add_argument("--tokens", type=int, default=16_384, help="of each text")
    parser.add_argument("--seed", type=int, default=0, help="of the places of the facts")
    args = parser.parse_args()
    novels = [load(args.data / "books" / f"{name}.txt").text for name in NOVELS]
    texts = distribute(load_wordings(args.part))
    write(args.output, load_base().tokenizer, texts, novels, tokens=args.tokens, seed=args.seed)


if __name__ == "__main__":
    main()
