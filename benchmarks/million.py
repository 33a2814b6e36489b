"""A million tokens on one machine: ten concatenated novels are read, stored, opened by a new process, and asked about.

    python benchmarks/million.py --data ../shared/data --store runs/million --output million.json [--cluster 2]

Reports time and memory of reading, opening and answering: a pass key planted at 37% of the text, and the first question
about each of the three longest novels among them. Nothing else should run at the same time. The store takes 12 GB for
the default model (int8 if memory is short); remove it afterwards. With --cluster, so many processes keep the chunks.
Memory is that of all processes together, shared pages counted once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import re
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from focusdoc import Document, FocusEngine

KEY, DEPTH = "48213", 0.37
PASS_KEY = f"\n\nThe pass key is {KEY}. Remember it. {KEY} is the pass key.\n\n"
BOOKS, WITH_QUESTIONS = 10, 6


def library(data: Path) -> tuple[Document, list[tuple[str, str]]]:
    """The concatenated novels (the shortest six that have questions, and four others) and questions with answers."""
    asked: dict[str, Any] = json.loads((data / "qa" / "novels.json").read_text(encoding="utf-8"))
    by_size = [path.stem for path in sorted((data / "books").glob("*.txt"), key=lambda path: path.stat().st_size)]
    with_questions = [name for name in by_size if name in asked][:WITH_QUESTIONS]
    names = [*with_questions, *(name for name in by_size if name not in asked)][:BOOKS]
    text = "\n\n".join((data / "books" / f"{name}.txt").read_text(encoding="utf-8") for name in names)
    at = text.index("\n\n", int(DEPTH * len(text)))
    questions = [(asked[name][0]["question"], asked[name][0]["answer"]) for name in with_questions[-3:]]
    return Document.from_text(text[:at] + PASS_KEY + text[at:], {"name": "ten novels"}), [
        ("What is the pass key?", KEY),
        *questions,
    ]


def watch_memory(peak: list[int]) -> None:
    """Note the most memory of this process and its children, every other second."""
    while True:
        total = 0
        for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
        peak[0] = max(peak[0], total)
        time.sleep(2)


def read(data: Path, store: Path, reader: str, cluster: int | None, pipe: Any) -> None:
    """The child process: read or open the novels, then ask."""
    peak = [0]
    threading.Thread(target=watch_memory, args=(peak,), daemon=True).start()
    document, questions = library(data)
    engine = FocusEngine.from_pretrained(store=store, reader=None if reader == "none" else reader, cluster=cluster)
    started = time.perf_counter()
    memory = engine.read(document)
    found: dict[str, Any] = {
        "tokens": memory.num_tokens,
        "tokens_read": memory.tokens_encoded,
        "seconds": time.perf_counter() - started,
        "memory_bytes": memory.num_bytes,
    }
    if not memory.tokens_encoded:
        found["answers"] = []
        for question, pattern in questions:
            answer = engine.ask(memory, question, max_new_tokens=48)
            row = {"question": question, "answer": answer.text, "seconds": answer.timings.total}
            found["answers"].append(row | {"right": bool(re.search(pattern, answer.text, re.IGNORECASE))})
    found["peak_bytes"] = peak[0]
    pipe.send(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--reader", default="auto")
    parser.add_argument("--cluster", type=int, metavar="N")
    args = parser.parse_args()
    results = {}
    for name in ("read", "opened"):
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        arguments = (args.data, args.store, args.reader, args.cluster, theirs)
        process = multiprocessing.get_context("spawn").Process(target=read, args=arguments)
        process.start()
        results[name] = ours.recv()
        process.join()
        print(name, json.dumps(results[name], indent=1), flush=True)
    results["stored_bytes"] = sum(path.stat().st_size for path in args.store.rglob("*") if path.is_file())
    args.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
