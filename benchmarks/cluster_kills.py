"""Processes of a cluster killed at random moments of reading and answering: is the answer the undisturbed one?

    python benchmarks/cluster_kills.py --text ../shared/data/books/36_the_war_of_the_worlds.txt --kills 50

Each round reads the text and answers a question over two processes, of which one is killed after a random share of the
time that an undisturbed round takes. Nothing is stored. Prints how many answers equal the undisturbed one, and what was
going on at the kills.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import psutil

from focusdoc import Answer, Document, FocusEngine

QUESTION = "Where did the first cylinder fall?"


def answered(engine: FocusEngine, document: Document, new_tokens: int, where: list[str]) -> Answer:
    """Read and answer; `where` says what is going on."""
    where[0] = "reading"
    memory = engine.read(document, progress=lambda done, total: None)
    where[0] = "answering"
    answer = engine.ask(memory, QUESTION, max_new_tokens=new_tokens, ignore_eos=True)
    where[0] = "done"
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--characters", type=int, default=60_000)
    parser.add_argument("--new-tokens", type=int, default=24, help="of the answer; with more, more kills fall into it")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    document = Document.from_text(args.text.read_text(encoding="utf-8")[: args.characters])
    engine = FocusEngine.from_pretrained(reader=None, store=None, cluster=2)
    assert engine.cluster is not None
    where, fell = [""], Counter[str]()
    answered(engine, document, args.new_tokens, where)
    begun = time.perf_counter()
    expected = answered(engine, document, args.new_tokens, where)
    seconds = time.perf_counter() - begun
    same = 0

    def kill() -> None:
        holders = [
            each for each in psutil.Process().children(recursive=True) if "ray::Actor" in " ".join(each.cmdline()[:1])
        ]
        fell[where[0]] += 1
        os.kill(rng.choice(holders).pid, signal.SIGKILL)

    for number in range(args.kills):
        timer = threading.Timer(rng.uniform(0, 0.95 * seconds), kill)
        timer.start()
        answer = answered(engine, document, args.new_tokens, where)
        timer.join()
        same += answer.token_ids == expected.token_ids
        print(f"{number + 1} of {args.kills}: {same} equal, {engine.cluster.num_replaced} replaced", flush=True)
    print(f"{same} of {args.kills} answers equal the undisturbed one; killed while {dict(fell)}")


if __name__ == "__main__":
    main()
