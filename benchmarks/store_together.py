"""One store, several processes of several threads, a few documents: who reads, who finds, and how long it takes.

    python benchmarks/store_together.py --data ../shared/data --processes 3 --threads 8 --documents 5 --tokens 8192

Every thread of every process asks for every document, each beginning at another one; all begin together, with the model
loaded and the store empty. Told are how often each document was read (once is right), the seconds until all had all,
and beside them those of one thread of one process that reads the same documents into a store of its own.
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
    """The beginnings of so many novels."""
    found = []
    for path in sorted((data / "books").glob("*.txt"))[:count]:
        text = load(path).text[: 6 * tokens]
        starts = tokenize(engine.base.tokenizer, text).starts
        found.append(load_text(text[: int(starts[tokens])], name=path.stem))
    return found


def work(store: Path, data: Path, count: int, tokens: int, threads: int) -> None:
    """A child process: says that it is ready, waits for a line, reads, and says what it read and how long it took."""
    engine = FocusEngine.from_pretrained(store=store)
    documents = documents_of(engine, data, count, tokens)
    print("ready", flush=True)
    sys.stdin.readline()
    begun = time.perf_counter()
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
    print(json.dumps({"seconds": time.perf_counter() - begun, "read": read}))


def together(given: argparse.Namespace, processes: int, threads: int) -> None:
    with tempfile.TemporaryDirectory() as store:
        command = [sys.executable, __file__, "--data", str(given.data), "--child", store]
        command += ["--documents", str(given.documents), "--tokens", str(given.tokens), "--threads", str(threads)]
        children = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(processes)
        ]
        for child in children:
            assert child.stdout is not None
            if "ready\n" not in iter(child.stdout.readline, ""):
                raise SystemExit("A process ended before it was ready; its error stands above.")
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        told = [json.loads(child.communicate()[0].splitlines()[-1]) for child in children]
    readings = Counter(name for each in told for name in each["read"])
    seconds = ", ".join(f"{each['seconds']:.1f}" for each in told)
    print(
        f"{processes} processes of {threads} threads, {given.documents} documents of {given.tokens} tokens: "
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
    given = parser.parse_args()
    if given.child:
        work(given.child, given.data, given.documents, given.tokens, given.threads)
        return
    together(given, 1, 1)
    together(given, given.processes, given.threads)


if __name__ == "__main__":
    main()
