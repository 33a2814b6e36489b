"""Facts in wordings that no training template has (benchmarks/wordings.json): retrieval and answers.

    python benchmarks/wordings.py --data ../shared/data --output runs/wordings --reader qwen2.5-coder-1.5b-instruct

Each text is a part of a held-out novel with ten facts of different kinds (dialogue, narration, songs, lists ...)
between random paragraphs; it is read once and asked ten questions. The place of a fact are the words of its answer; it
is found if the passages of the best window, or of the best four, include them. An answer is right if the fact's pattern
matches it. `--reader none` measures only retrieval; `--part tuning` takes other facts, to try changes on. Rows go to
the folder `--output`, where a stopped run resumes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from novel import NOVELS

from focusdoc import Document, FocusEngine, load
from focusdoc.decoding.prompt import encode_text
from focusdoc.evaluation.natural_scores import interval, matches, right
from focusdoc.evaluation.results import ResultFolder, Row, Shard
from focusdoc.memory.chunk_memory import DocumentMemory
from focusdoc.readers.passages import Passage, choose_passages

#: The facts of each part; nothing may be tuned on those held out.
WORDINGS = {
    "held out": Path(__file__).with_suffix(".json"),
    "tuning": Path(__file__).with_name("wordings_tuning.json"),
}
#: Facts in one text.
PER_TEXT = 10
#: Characters of a line of prose, about as in the novels.
LINE = 72
#: Ranks k of "found at k".
AMONG = (1, 4)
MAX_NEW_TOKENS = 48


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


def holds(passages: Iterable[Passage], places: Sequence[tuple[int, int]]) -> bool:
    return any(each.start <= first and last <= each.end for each in passages for first, last in places)


def ask(engine: FocusEngine, memory: DocumentMemory, planted: Planted, number: int, wording: Wording) -> Row:
    """Retrieve passages for a fact's question, and answer it if the engine has a reader."""
    started = time.perf_counter()
    assert memory.document is not None
    places = answer_places(planted, number, wording.answer)
    found = engine.find(memory, wording.question)
    best = {most: choose_passages(found, lambda some: True, limit=most, enough=2.0) for most in AMONG}
    row: Row = {f"found at {most}": holds(best[most], places) for most in AMONG}
    row["passages"] = [memory.document.text[each.start : each.end] for each in best[AMONG[-1]]]
    if engine.reader is not None:
        answer = engine.ask(memory, wording.question, max_new_tokens=MAX_NEW_TOKENS, max_sources=1)
        row |= {"answered": answer.text, "right": bool(right(answer.text, [wording.answer]))}
    return row | {"question": wording.question, "answer": wording.answer, "seconds": time.perf_counter() - started}


def run(
    engine: FocusEngine,
    texts: Sequence[Sequence[Wording]],
    novels: Sequence[str],
    done: Mapping[tuple[str, str], Row],
    *,
    tokens: int,
    seed: int,
) -> Iterator[Row]:
    """The rows of all questions that are not done yet; finished texts are not read."""
    for number, wordings in enumerate(texts):
        left = [at for at, wording in enumerate(wordings) if (wording.kind, f"{number}-{at}") not in done]
        if not left:
            continue
        rng = random.Random(f"wordings-{seed}-{number}")
        novel = novels[number % len(novels)]
        planted = planted_novel(engine.base.tokenizer, novel, wordings, tokens, rng)
        memory = engine.read(Document.from_text(planted.text))
        for at in left:
            row = ask(engine, memory, planted, at, wordings[at])
            yield {"task": wordings[at].kind, "id": f"{number}-{at}", "place": number * PER_TEXT + at, **row}


def report(rows: Iterable[Row]) -> str:
    """A table with a row for all facts and for each kind, then every miss with its passages and answer."""
    rows = list(rows)
    measures = [name for name in ("right", *(f"found at {most}" for most in AMONG)) if name in rows[0]]
    lines = [" | ".join(["", f"{'kind':<10}", "facts", *(f"{name:<19}" for name in measures), ""]).strip()]
    for kind in [None, *sorted({row["task"] for row in rows})]:
        of_kind = [row for row in rows if kind in (None, row["task"])]
        shares = [_share([float(row[name]) for row in of_kind]) for name in measures]
        lines.append(" | ".join(["", f"{kind or 'all':<10}", f"{len(of_kind):5}", *shares, ""]).strip())
    for row in rows:
        if not all(row[name] for name in measures):
            what = ", ".join(f"{name}: {'yes' if row[name] else 'no'}" for name in measures)
            lines.append(f"\n{row['task']} {row['id']}: {what}\n  {row['question']}\n  wanted   {row['answer']}")
            lines += [f"  answered {row['answered']!r}"] if "answered" in row else []
            lines += [f"  found    {' '.join(passage.split())[:200]!r}" for passage in row["passages"][:2]]
    return "\n".join(lines)


def _share(values: Sequence[float]) -> str:
    low, high = interval(values)
    return f"{sum(values) / len(values):4.0%} ({low:4.0%} to {high:4.0%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="holds books/*.txt")
    parser.add_argument("--output", type=Path, required=True, help="a folder for this run")
    parser.add_argument("--part", choices=list(WORDINGS), default="held out")
    parser.add_argument("--reader", default="none", help="the model that answers; none measures only retrieval")
    parser.add_argument("--reader-model")
    parser.add_argument("--adapter", default="auto")
    parser.add_argument("--store", default="auto", help="the document store")
    parser.add_argument("--tokens", type=int, default=16_384, help="of each text")
    parser.add_argument("--seed", type=int, default=0, help="of the places of the facts")
    parser.add_argument("--limit", type=int, help="use only the first N texts")
    args = parser.parse_args()
    settings = {name: getattr(args, name) for name in ("reader", "reader_model", "adapter", "tokens", "seed")}
    settings["wordings"] = hashlib.sha256(WORDINGS[args.part].read_bytes()).hexdigest()
    novels = [load(args.data / "books" / f"{name}.txt").text for name in NOVELS]
    engine = FocusEngine.from_pretrained(
        adapter=args.adapter,
        store=args.store,
        reader=None if args.reader == "none" else args.reader,
        reader_model=args.reader_model,
    )
    texts = distribute(load_wordings(args.part))[: args.limit]
    with ResultFolder(args.output, settings).appending(Shard(), resume=True) as file:
        for row in run(engine, texts, novels, file.rows, tokens=args.tokens, seed=args.seed):
            file.add(row)
            shown = {name: row[name] for name in ("right", *(f"found at {most}" for most in AMONG)) if name in row}
            print(row["task"], row["id"], shown, f"{row['seconds']:.1f} s", flush=True)
        print(report(sorted(file.rows.values(), key=lambda row: row["place"])))


if __name__ == "__main__":
    main()
