"""Concurrent use of one store by several processes with several threads: duplicate readings, and time.

    python benchmarks/store_together.py --data ../shared/data --processes 3 --threads 8 --documents 5 --tokens 8192

Every thread of every process reads every document, each starting at a different one; all start at the same time, with
the model loaded and the store empty. Reports how often each document was read (once is right) and the total seconds,
compared with one thread of one process with its own store.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from focusdoc import Document, FocusEngine, load, load_text
from focusdoc.documents import tokenize


def documents_of(engine: FocusEngine, data: Path, count: int, tokens: int) -> list[Document]:
    """The first `tokens` tokens of `count` novels."""
    found = []
    for path in sorted((data / "books").glob("*.txt"))[:count]:
        text = load(path).text[: 6 * tokens]
        starts = tokenize(engine.base.tokenizer, text).starts
        found.append(load_text(text[: int(starts[tokens])], name=path.stem))
    return found


def work(store: Path, data: Path, count: int, tokens: int, threads: int) -> None:
    """The child process: prints "ready", waits for a line, reads, and prints what it read and the seconds."""
    engine = FocusEngine.from_pretrained(store=store)
    documents = documents_of(engine, data, count, tokens)
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.perf_counter()
    read: list[str] = []

    def one(first: int) -> None:
        for number in range(count):
            document = documents[(first + number) % count]
            if engine.read(document, progress=lambda *_: None).tokens_encoded:
                read.append(document.name)

    running = [threading.Thread(target=one, args=(first,)) for first in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    print(json.dumps({"seconds": time.perf_counter() - started, "read": read}))


def together(args: argparse.Namespace, processes: int, threads: int) -> None:
    with tempfile.TemporaryDirectory() as store:
        command = [sys.executable, __file__, "--data", str(args.data), "--child", store]
        command += ["--documents", str(args.documents), "--tokens", str(args.tokens), "--threads", str(threads)]
        children = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(processes)
        ]
        for child in children:
            assert child.stdout is not None
            if "ready\n" not in iter(child.stdout.readline, ""):
                raise SystemExit("A process ended before it was ready; its error is above.")
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        results = [json.loads(child.communicate()[0].splitlines()[-1]) for child in children]
    readings = Counter(name for each in results for name in each["read"])
    seconds = ", ".join(f"{each['seconds']:.1f}" for each in results)
    print(
        f"{processes} processes of {threads} threads, {args.documents} documents of {args.tokens} tokens: "
        f"{seconds} s; readings of each {sorted(readings.values())}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with books/")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--documents", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        work(args.child, args.data, args.documents, args.tokens, args.threads)
        return
    together(args, 1, 1)
    together(args, args.processes, args.threads)


if __name__ == "__main__":
    main()
