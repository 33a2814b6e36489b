"""One store, many threads and processes: one reading of each document, and nobody waits for another's writing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from focusdoc.memory import entries, segments, store
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.manifest import Segment
from focusdoc.memory.store import DocumentStore
from focusdoc.modeling.base import BaseModel
from store_samples import IDS, assert_fresh, read, read_through
from tiny_models import tiny_model

#: A process of eight threads over five documents, each thread beginning at another one.
_WORK = """
import json, sys, threading
from pathlib import Path
from store_samples import IDS, KERNEL, SIZE, BaseModel, DocumentStore, read_through
from tiny_models import tiny_model

kept, base, told = DocumentStore(Path(sys.argv[1])), BaseModel(tiny_model()), []
documents = [IDS[number:] * 3 for number in range(5)]
print("ready", flush=True)
sys.stdin.readline()

def work(first):
    for number in range(first, first + 5):
        told.append((number % 5, read_through(kept, base, documents[number % 5])[1]))

threads = [threading.Thread(target=work, args=(first,)) for first in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps(told))
"""


def test_eight_threads_in_each_of_three_processes_read_five_documents_once(folder: Path, base: BaseModel) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "helpers"), "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", _WORK, str(folder)]
    processes = [subprocess.Popen(command, env=environment, **pipes) for _ in range(3)]
    try:
        assert [process.stdout.readline() for process in processes if process.stdout] == ["ready\n"] * 3
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        told = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
    encoded = [(number, tokens) for of_process in told for number, tokens in of_process]
    assert Counter(number for number, _ in encoded) == dict.fromkeys(range(5), 24)
    # Each was found 23 times and read once.
    assert sorted(pair for pair in encoded if pair[1]) == [(number, len(IDS[number:]) * 3) for number in range(5)]
    assert len(entries.entry_folders(folder)) == 5
    assert list(folder.glob(".spool*")) == []
    for number in range(5):
        assert_fresh(read(folder, base, IDS[number:] * 3)[0], base, IDS[number:] * 3)


def test_nobody_waits_while_another_document_is_written(
    folder: Path, base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, begun, may_end = segments.write_segment, threading.Event(), threading.Event()

    def slow(path: Path, blocks: Sequence[MemoryBlock], num_chunks: int) -> Segment:
        if threading.current_thread() is writer:
            begun.set()
            assert may_end.wait(60)
        return write(path, blocks, num_chunks)

    monkeypatch.setattr(store, "write_segment", slow)
    writer = threading.Thread(target=read, args=(folder, base, IDS))
    writer.start()
    try:
        assert begun.wait(60)
        for number in range(1, 3):  # another document is read and written meanwhile, and its entries may go
            assert read(folder, BaseModel(tiny_model()), IDS[number:])[1] == len(IDS) - number
        entries.clear_entries(folder)
        assert read(folder, BaseModel(tiny_model()), IDS[1:])[1] == len(IDS) - 1
    finally:
        may_end.set()
        writer.join()
    assert read(folder, base, IDS)[1] == 0
    assert read(folder, base, IDS[1:])[1] == 0


def test_whoever_waits_for_a_reading_can_leave(folder: Path, base: BaseModel) -> None:
    """Waiting asks `progress`, by which a reading is cancelled."""
    reading, may_end = threading.Event(), threading.Event()

    def hold(done: int, total: int) -> None:
        reading.set()
        assert may_end.wait(60)

    class LeftError(Exception):
        pass

    def leave(done: int, total: int) -> None:
        assert (done, total) == (0, 90)
        raise LeftError

    def read_with(progress: Any) -> tuple[tuple[MemoryBlock, ...], int]:
        return read_through(DocumentStore(folder), base, IDS, progress=progress)

    reader = threading.Thread(target=read_with, args=(hold,))
    reader.start()
    try:
        assert reading.wait(60)
        before = time.monotonic()
        with pytest.raises(LeftError):
            read_with(leave)
        assert time.monotonic() - before < 10
    finally:
        may_end.set()
        reader.join()
    assert read(folder, base, IDS)[1] == 0


def test_a_reading_that_fails_lets_the_next_one_read(folder: Path, base: BaseModel) -> None:
    def fail(done: int, total: int) -> None:
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        read_through(DocumentStore(folder), base, IDS, progress=fail)
    assert [read(folder, base, IDS)[1] for _ in range(2)] == [90, 0]
