"""One pass key in a document of great length: read and stored by one process, opened and found by another.

The second process has none of what the first one held, so the keys and values it answers from are those on the disk.
"""

from __future__ import annotations

import random
import time
from typing import Any

from focusdoc.benchmark.cases import Case, Settings
from focusdoc.benchmark.clocks import ReadingClock
from focusdoc.benchmark.memory_use import PeakMemory
from focusdoc.benchmark.ours import finish, load_engine, silent, sized
from focusdoc.benchmark.passage import passage, source_text
from focusdoc.documents import Document
from focusdoc.engine import FocusEngine
from focusdoc.evaluation.engines import tokenizer_of
from focusdoc.evaluation.passkey import MAX_NEW_TOKENS, statement

QUESTION = "What is the pass key?"
#: Five digits.
_KEYS = range(10_000, 100_000)


def planted(engine: FocusEngine, settings: Settings, length: int) -> tuple[Document, int]:
    """About `length` tokens of a real text with a pass key between two of its words, and the key; always the same."""
    document, _ = passage(tokenizer_of(engine), source_text(settings.text), length)
    rng = random.Random(f"far {length}")
    key, text = rng.choice(_KEYS), document.text
    place = text.find(" ", int(rng.uniform(0.1, 0.9) * len(text)))
    text = f"{text[:place]} {statement(key)} {text[place:]}"
    return Document.from_text(text, {"name": f"{length:,} tokens with a pass key"}), key


def measure_reading(case: Case, settings: Settings, store: str | None) -> dict[str, Any]:
    """Read the document and store its memory."""
    engine = sized(load_engine(settings, store), case)
    document, _ = planted(engine, settings, case.length)
    peak, clock = PeakMemory(engine.base.device), ReadingClock()
    begun = time.perf_counter()
    memory = engine.read(document, progress=clock)
    finish(engine)
    return {
        "tokens": memory.num_tokens,
        "chunks": memory.num_chunks,
        "read_seconds": clock.last - begun,
        "store_seconds": time.perf_counter() - clock.last,
        "kv_bytes": memory.num_bytes,
        "peak_bytes": peak.growth(),
        "process_bytes": peak.before + peak.growth(),
    }


def measure_recall(case: Case, settings: Settings, store: str | None) -> dict[str, Any]:
    """Open the memory that another process stored, and ask for the pass key."""
    engine = sized(load_engine(settings, store), case)
    document, key = planted(engine, settings, case.length)
    peak, begun = PeakMemory(engine.base.device), time.perf_counter()
    memory = engine.read(document, progress=silent)
    opened = time.perf_counter() - begun
    if memory.tokens_encoded:
        return {"reopen_note": "the store did not keep the document"}
    answer = engine.ask(memory, QUESTION, max_new_tokens=MAX_NEW_TOKENS, max_sources=0)
    return {
        "reopen_seconds": opened,
        "reopened_first_seconds": answer.timings.first_token,
        "answer_seconds": time.perf_counter() - begun - opened,
        "reopened_process_bytes": peak.before + peak.growth(),
        "pass_key": key,
        "answer": answer.text,
        "right": str(key) in answer.text,
    }
