"""Facts in wordings that no training template has (benchmarks/wordings.json): are they found, and answered rightly?

    python benchmarks/wordings.py --data ../shared/data --output runs/wordings --reader qwen2.5-coder-1.5b-instruct

Each text is a stretch of a novel that the shipped adapter was not trained on, with ten facts of different kinds (said
in dialogue, told, sung, listed ...) at random ends of paragraphs; it is read once and asked ten questions. The place of
a fact is its answer's words; it is found where one of the passages of the best window, or of the best four, holds them.
An answer is right where the fact's pattern matches it. `--reader none` measures the finding alone. Rows go to the
folder `--output`; a run that was stopped goes on there.
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

WORDINGS = Path(__file__).with_suffix(".json")
#: Facts in one text.
PER_TEXT = 10
#: Characters of a line of prose, about as the novels are set.
LINE = 72
#: The place is looked for in the passages of so many windows.
AMONG = (1, 4)
MAX_NEW_TOKENS = 48


@dataclass(frozen=True)
class Wording:
    """A fact as a novel might have it, a question about it, and a pattern that right answers match."""

    kind: str
    text: str
    question: str
    answer: str


@dataclass(frozen=True)
class Planted:
    """A text, and where in it (characters) the facts stand, in the order in which they were given."""

    text: str
    spans: list[tuple[int, int]]


def load_wordings(path: Path = WORDINGS) -> list[Wording]:
    return [Wording(**fact) for fact in json.loads(path.read_text(encoding="utf-8"))]


def dealt(wordings: Sequence[Wording], per_text: int = PER_TEXT) -> list[list[Wording]]:
    """The facts of each text: of every kind, each text has as many as any other, or one more."""
    count = -(-len(wordings) // per_text)
    by_kind = sorted(wordings, key=lambda wording: wording.kind)
    return [by_kind[first::count] for first in range(count)]


def paragraphs(text: str) -> list[str]:
    return [part for part in re.split(r"\n\s*\n", text) if part.strip()]


def as_printed(text: str) -> str:
    """The text of a fact in lines of a novel's width; lines of verse, lists and tables are shorter and stay."""
    return "\n".join(
        line if len(line) <= LINE else textwrap.fill(line, LINE, break_long_words=False, break_on_hyphens=False)
        for line in text.split("\n")
    )


def stretch(sizes: Sequence[int], room: int, rng: random.Random) -> slice:
    """Paragraphs in a row, from a random one on, of `room` tokens together or a little less.

    Args:
        sizes: tokens of every paragraph of a novel that has more than `room`.
    """
    before = [0, *accumulate(sizes)]
    first = rng.choice([index for index in range(len(sizes)) if before[-1] - before[index] >= room])
    last = max(index for index in range(first, len(before)) if before[index] - before[first] <= room)
    return slice(first, last)


def plant(ground: Sequence[str], facts: Sequence[str], rng: random.Random) -> Planted:
    """The paragraphs of `ground` with every fact between two of them, no two facts at the same place."""
    places = dict(zip(rng.sample(range(1, len(ground)), len(facts)), range(len(facts)), strict=True))
    text, spans = ground[0], [(0, 0)] * len(facts)
    for number, paragraph in enumerate(ground[1:], start=1):
        if number in places:
            start = len(text) + 2
            text = f"{text}\n\n{facts[places[number]]}"
            spans[places[number]] = (start, len(text))
        text = f"{text}\n\n{paragraph}"
    return Planted(text, spans)


def planted_novel(tokenizer: Any, novel: str, wordings: Sequence[Wording], tokens: int, rng: random.Random) -> Planted:
    """`tokens` tokens of a novel, the facts among them; to 1% or so, as paragraphs are counted one by one."""
    facts = [as_printed(wording.text) for wording in wordings]
    ground = paragraphs(novel)
    room = tokens - sum(len(encode_text(tokenizer, f"{fact}\n\n")) for fact in facts)
    sizes = [len(encode_text(tokenizer, f"{paragraph}\n\n")) for paragraph in ground]
    return plant(ground[stretch(sizes, room, rng)], facts, rng)


def answer_places(planted: Planted, number: int, answer: str) -> list[tuple[int, int]]:
    """Where in the text the words of the answer stand, within their fact."""
    start, end = planted.spans[number]
    in_one_line = planted.text[start:end].replace("\n", " ")
    return [(start + first, start + last) for first, last in matches(answer, in_one_line)]


def holds(passages: Iterable[Passage], places: Sequence[tuple[int, int]]) -> bool:
    return any(each.start <= first and last <= each.end for each in passages for first, last in places)


def ask(engine: FocusEngine, memory: DocumentMemory, planted: Planted, number: int, wording: Wording) -> Row:
    """What is found for the question of a fact, and what is answered where the engine has a reader."""
    begun = time.perf_counter()
    assert memory.document is not None
    places = answer_places(planted, number, wording.answer)
    found = engine.find(memory, wording.question)
    best = {most: choose_passages(found, lambda some: True, limit=most, enough=2.0) for most in AMONG}
    row: Row = {f"found at {most}": holds(best[most], places) for most in AMONG}
    row["passages"] = [memory.document.text[each.start : each.end] for each in best[AMONG[-1]]]
    if engine.reader is not None:
        answer = engine.ask(memory, wording.question, max_new_tokens=MAX_NEW_TOKENS, max_sources=1)
        row |= {"answered": answer.text, "right": bool(right(answer.text, [wording.answer]))}
    return row | {"question": wording.question, "answer": wording.answer, "seconds": time.perf_counter() - begun}


def run(
    engine: FocusEngine,
    texts: Sequence[Sequence[Wording]],
    novels: Sequence[str],
    done: Mapping[tuple[str, str], Row],
    *,
    tokens: int,
    seed: int,
) -> Iterator[Row]:
    """The rows of all questions that are not done yet; a text with nothing left to ask is not read."""
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
    """A line for all and for each kind, then every miss, with what was found and answered."""
    rows = list(rows)
    measures = [name for name in ("right", *(f"found at {most}" for most in AMONG)) if name in rows[0]]
    lines = [" | ".join(["", f"{'kind':<10}", "facts", *(f"{name:<19}" for name in measures), ""]).strip()]
    for kind in [None, *sorted({row["task"] for row in rows})]:
        of_kind = [row for row in rows if kind in (None, row["task"])]
        told = [_share([float(row[name]) for row in of_kind]) for name in measures]
        lines.append(" | ".join(["", f"{kind or 'all':<10}", f"{len(of_kind):5}", *told, ""]).strip())
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
    parser.add_argument("--output", type=Path, required=True, help="a folder of this run's own")
    parser.add_argument("--reader", default="none", help="what writes the answers; none measures the finding alone")
    parser.add_argument("--reader-model")
    parser.add_argument("--adapter", default="auto")
    parser.add_argument("--store", default="auto", help="where memories are kept")
    parser.add_argument("--tokens", type=int, default=16_384, help="of each text")
    parser.add_argument("--seed", type=int, default=0, help="of the places of the facts")
    parser.add_argument("--limit", type=int, help="only the first so many texts")
    given = parser.parse_args()
    settings = {name: getattr(given, name) for name in ("reader", "reader_model", "adapter", "tokens", "seed")}
    settings["wordings"] = hashlib.sha256(WORDINGS.read_bytes()).hexdigest()
    novels = [load(given.data / "books" / f"{name}.txt").text for name in NOVELS]
    engine = FocusEngine.from_pretrained(
        adapter=given.adapter,
        store=given.store,
        reader=None if given.reader == "none" else given.reader,
        reader_model=given.reader_model,
    )
    texts = dealt(load_wordings())[: given.limit]
    with ResultFolder(given.output, settings).appending(Shard(), resume=True) as file:
        for row in run(engine, texts, novels, file.rows, tokens=given.tokens, seed=given.seed):
            file.add(row)
            shown = {name: row[name] for name in ("right", *(f"found at {most}" for most in AMONG)) if name in row}
            print(row["task"], row["id"], shown, f"{row['seconds']:.1f} s", flush=True)
        print(report(sorted(file.rows.values(), key=lambda row: row["place"])))


if __name__ == "__main__":
    main()
