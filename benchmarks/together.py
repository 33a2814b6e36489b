"""Questions at once over one document: in turn, all at the same time, and by `ask_many`.

    python benchmarks/together.py --text ../shared/data/books/36_the_war_of_the_worlds.txt --questions 4

Prints seconds in all for each way, and how many answers differ from those in turn. The base model answers, without a
reader, so that every token is a step over all chunks. Nothing else should run at the same time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from focusdoc import Document, FocusEngine

ASKED = ("Who is the narrator?", "What fell on the common?", "Where did the cylinder land?", "Who is Ogilvy?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--characters", type=int, default=400_000)
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    engine = FocusEngine.from_pretrained(reader=None)
    memory = engine.read(Document.from_text(args.text.read_text(encoding="utf-8")[: args.characters]))
    questions = [ASKED[number % len(ASKED)] for number in range(args.questions)]

    def ask(question: str) -> str:
        return engine.ask(memory, question, max_new_tokens=args.new_tokens, ignore_eos=True).text

    def at_once() -> list[str]:
        with ThreadPoolExecutor(len(questions)) as pool:
            return list(pool.map(ask, questions))

    ways: dict[str, Callable[[], list[str]]] = {
        "in turn": lambda: [ask(question) for question in questions],
        "at once": at_once,
        "ask_many": lambda: [
            answer.text
            for answer in engine.ask_many(memory, questions, max_new_tokens=args.new_tokens, ignore_eos=True)
        ],
    }
    ask(questions[0])
    expected = ways["in turn"]()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    differing = dict.fromkeys(ways, 0)
    for _ in range(args.rounds):
        for name, way in ways.items():
            begun = time.perf_counter()
            found = way()
            seconds[name].append(time.perf_counter() - begun)
            differing[name] += sum(one != other for one, other in zip(found, expected, strict=True))
    print(f"{memory.num_tokens:,} tokens, {len(questions)} questions, {args.new_tokens} new tokens each")
    for name, taken in seconds.items():
        print(f"{name}: {sorted(taken)[len(taken) // 2]:.2f} s (median of {len(taken)}), {differing[name]} differ")


if __name__ == "__main__":
    main()
