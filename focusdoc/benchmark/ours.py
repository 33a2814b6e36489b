"""What the engine's own modes take: reading, first tokens, steps, memory, reopening."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from focusdoc.benchmark.cases import Case, Settings
from focusdoc.benchmark.clocks import ReadingClock, StepClock, median
from focusdoc.benchmark.memory_use import PeakMemory
from focusdoc.benchmark.passage import passage, source_text
from focusdoc.documents import Document
from focusdoc.engine import FocusEngine
from focusdoc.evaluation.engines import ModeSettings, focus_engine, look_engine, paper_engine, tokenizer_of
from focusdoc.memory.chunk_memory import DocumentMemory

#: Both take as many tokens, about; the answers do not matter.
QUESTIONS = ("What does a name that is bound in a block refer to?", "When is the finally clause of a try executed?")
#: Read and asked first, so that what is made once (packed weights, threads) is there when the clock runs.
_WARM_UP = "The keeper of the lighthouse counts the ships that pass. " * 4
#: Steps of the paper's decoding that are timed at most: each takes seconds.
_PAPER_STEPS = 2


def load_engine(settings: Settings, store: str | None = None) -> FocusEngine:
    """The engine that `settings` names."""
    return FocusEngine.from_pretrained(
        settings.model, adapter=settings.adapter, device=settings.device, dtype=settings.dtype, store=store
    )


def measure_memory_mode(case: Case, settings: Settings, store: str | None) -> dict[str, Any]:
    """Reading into a memory, which is then stored, and two questions to it."""
    engine = sized(load_engine(settings, store), case)
    document, _ = passage(tokenizer_of(engine), source_text(settings.text), case.length)
    _ask(engine, engine.read(Document.from_text(_WARM_UP), progress=silent), "Who counts?", steps=1)
    peak, clock = PeakMemory(engine.base.device), ReadingClock()
    begun = time.perf_counter()
    memory = engine.read(document, progress=clock)
    finish(engine)
    read, stored = clock.last - begun, time.perf_counter() - clock.last
    (first, steps), (second, more) = (_ask(engine, memory, question, settings.steps) for question in QUESTIONS)
    return {
        "tokens": memory.num_tokens,
        "chunks": memory.num_chunks,
        "read_seconds": read,
        "store_seconds": stored,
        "first_seconds": read + first,
        "second_seconds": second,
        "token_seconds": median(steps + more),
        "kv_bytes": memory.num_bytes,
        "kv_bytes_as_computed": memory.num_tokens * engine.base.kv_bytes_per_token,
        "peak_bytes": peak.growth(),
    }


def measure_reopening(case: Case, settings: Settings, store: str | None) -> dict[str, Any]:
    """A new process opens the memory that another one stored, and asks once."""
    begun = time.perf_counter()
    engine = sized(load_engine(settings, store), case)
    loaded = time.perf_counter() - begun
    document, _ = passage(tokenizer_of(engine), source_text(settings.text), case.length)
    begun = time.perf_counter()
    memory = engine.read(document, progress=silent)
    opened = time.perf_counter() - begun
    if memory.tokens_encoded:
        return {"reopen_note": "the store did not keep the document"}
    first, _ = _ask(engine, memory, QUESTIONS[0], steps=0)
    return {"load_seconds": loaded, "reopen_seconds": opened, "reopened_first_seconds": first}


def measure_paper_mode(case: Case, settings: Settings, store: str | None) -> dict[str, Any]:
    """One sequence, split and decoded as the paper's code does; reading is part of its first token."""
    engine = paper_engine(load_engine(settings), ModeSettings())
    _, ids = passage(tokenizer_of(engine), source_text(settings.text), case.length)
    clock = StepClock()
    steps = min(settings.steps, _PAPER_STEPS)
    output = engine.generate(ids, max_new_tokens=steps + 1, ignore_eos=True, grammar=clock)
    return {
        "tokens": len(ids),
        "chunks": output.usage.num_chunks,
        "first_seconds": output.timings.first_token,
        "token_seconds": median(clock.steps),
    }


def sized(engine: FocusEngine, case: Case) -> FocusEngine:
    """`engine` with the settings of `case`."""
    if case.contender == "look":
        return look_engine(engine, ModeSettings(chunk_size=case.chunk_size))
    settings = ModeSettings(chunk_size=case.chunk_size, local_window=engine.config.local_window)
    engine = focus_engine(engine, settings)
    if case.contender != "int8":
        return engine
    config = replace(engine.config, memory_dtype="int8")
    return FocusEngine(engine.base, engine.adapter, config, store=engine.store)


def _ask(engine: FocusEngine, memory: DocumentMemory, question: str, steps: int) -> tuple[float, list[float]]:
    """Seconds to the first token of an answer, and of each step behind it. Sources take passes of their own."""
    clock = StepClock()
    *_, last = engine.stream(memory, question, max_sources=0, max_new_tokens=steps + 1, ignore_eos=True, grammar=clock)
    if last.answer is None:  # pragma: no cover - the last piece always carries the answer
        raise RuntimeError("the stream ended without an answer")
    return last.answer.timings.first_token, clock.steps


def finish(engine: FocusEngine) -> None:
    """Wait until everything is computed; a GPU works on its own."""
    if engine.base.device.type == "cuda":
        torch.cuda.synchronize(engine.base.device)


def silent(done: int, total: int) -> None:
    """No bar for reading."""
