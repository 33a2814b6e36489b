"""Processes that keep the chunks of a document, against one process with as many threads.

    python benchmarks/cluster.py --text ../shared/data/books/36_the_war_of_the_worlds.txt --holders 2

Prints seconds to read the text and seconds a token, for one process of --holders threads and for --holders processes of
one thread, whether they answer the same, and the ratios. Nothing is stored. The base model answers, without a reader:
every token is a step over all chunks. Nothing else should run at the same time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from focusdoc import Document, FocusEngine

QUESTION = "Where did the first cylinder fall?"


def measured(engine: FocusEngine, document: Document, new_tokens: int, rounds: int) -> dict[str, object]:
    """Seconds of reading, of the first token and of each further one; and the answer."""
    begun = time.perf_counter()
    memory = engine.read(document, progress=lambda done, total: None)
    reading = time.perf_counter() - begun
    engine.ask(memory, QUESTION, max_new_tokens=2)
    answers = [engine.ask(memory, QUESTION, max_new_tokens=new_tokens, ignore_eos=True) for _ in range(rounds)]
    return {
        "tokens": memory.num_tokens,
        "read": reading,
        "first token": statistics.median(answer.timings.first_token for answer in answers),
        "token": statistics.median(answer.timings.decode / (len(answer.token_ids) - 1) for answer in answers),
        "answer": answers[0].text,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=32_768, help="about so many of the text's tokens")
    parser.add_argument("--holders", type=int, default=2)
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.holders)
    text = args.text.read_text(encoding="utf-8")
    document = Document.from_text((text * (1 + args.tokens * 5 // len(text)))[: args.tokens * 4])
    found = {
        name: measured(
            FocusEngine.from_pretrained(reader=None, store=None, cluster=cluster),
            document,
            args.new_tokens,
            args.rounds,
        )
        for name, cluster in (("one process", None), (f"{args.holders} processes", args.holders))
    }
    one, spread = found.values()
    for name, values in found.items():
        print(name, json.dumps(values, ensure_ascii=False))
    print("same answer:", one["answer"] == spread["answer"])
    for what in ("read", "first token", "token"):
        print(f"{what}: {spread[what] / one[what]:.2f} times as long")  # type: ignore[operator]
    if args.output:
        args.output.write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
