"""The measurements of each contender: reading, first tokens, steps, memory, reopening."""

from __future__ import annotations

import itertools
import os
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed import machine
from benchmarks.speed.cases import MACHINE, REOPEN, Case, Settings
from benchmarks.speed.machine import PeakMemory, settle
from focusdoc.decoding.prompt import tokenizer_of
from focusdoc.documents import Document, tokenize
from focusdoc.engine import FocusEngine
from focusdoc.evaluation.engines import focus_engine, look_engine, paper_engine
from focusdoc.evaluation.generated import PASSKEY_NEW_TOKENS, statement
from focusdoc.evaluation.item import ModeSettings
from focusdoc.evaluation.loading import long_texts, needed
from focusdoc.memory.chunk_memory import DocumentMemory
from focusdoc.modeling.base import load_base
from focusdoc.modeling.catalogue import DEFAULT_MODEL, known_model
from focusdoc.modeling.installed import find_gguf

#: Both have about the same number of tokens; the answers do not matter.
QUESTIONS = ("What does a name that is bound in a block refer to?", "When is the finally clause of a try executed?")
#: Read and asked first, so that one-time work (packed weights, threads) is not timed.
_WARM_UP, _WARM_UP_TOKENS = "The keeper of the lighthouse counts the ships that pass. " * 4, 64
#: Most timed steps of the paper's decoding, since each takes seconds.
_PAPER_STEPS = 2
#: Positions that llama.cpp needs after prompt and answer.
_ROOM = 8
#: Five digits.
_KEYS = range(10_000, 100_000)


def do(work: str, case: Case, settings: Settings, store: str | None) -> dict[str, Any]:
    """Run one measurement (see `benchmarks.speed.run`) in this process."""
    if work == MACHINE:
        engine = load_engine(settings)
        return {"facts": machine.facts(engine, source_text(settings.text)), "rates": machine.rates(engine)}
    if work == "full":
        return _full_attention(case, settings)
    if work == "llama.cpp":
        return _llama_cpp(case, settings)
    started = time.perf_counter()
    engine = _sized(load_engine(settings, store), case)
    loaded = time.perf_counter() - started
    if work == "paper":
        return _paper_mode(engine, case, settings)
    document, key = document_of(engine, settings, case)
    if work == REOPEN:
        return {"load_seconds": loaded, **_opening(engine, document, key)}
    return _reading(engine, document, QUESTIONS if key is None else (), settings.steps)


def load_engine(settings: Settings, store: str | None = None) -> FocusEngine:
    """Load the engine of `settings`."""
    return FocusEngine.from_pretrained(
        settings.model, adapter=settings.adapter, device=settings.device, dtype=settings.dtype, store=store
    )


def source_text(path: str | None) -> str:
    """The text at `path` (the first one of a folder), or the Python reference."""
    return next(iter(long_texts(Path(path) if path is not None else None))).text


def passage(tokenizer: Any, text: str, length: int) -> tuple[Document, list[int]]:
    """The first `length` tokens of `text`, as a document and as token ids.

    A shorter text is repeated. Its length is hardly ever a multiple of the chunk size, so no two chunks are the same.
    """
    tokenized = tokenize(tokenizer, text)
    if len(tokenized) < length:
        text = "\n\n".join([text] * (length // len(tokenized) + 2))
        tokenized = tokenize(tokenizer, text)
    end = int(tokenized.starts[length]) if length < len(tokenized) else len(text)
    return Document.from_text(text[:end], {"name": f"{length:,} tokens"}), tokenized.token_ids[:length]


def document_of(engine: FocusEngine, settings: Settings, case: Case) -> tuple[Document, int | None]:
    """The document of a case; for "far" with a pass key between two words, the same at every call."""
    document, _ = passage(tokenizer_of(engine.base), source_text(settings.text), case.length)
    if case.task != "far":
        return document, None
    rng = random.Random(f"far {case.length}")
    key, text = rng.choice(_KEYS), document.text
    place = text.find(" ", int(rng.uniform(0.1, 0.9) * len(text)))
    text = f"{text[:place]} {statement(key)} {text[place:]}"
    return Document.from_text(text, {"name": f"{case.length:,} tokens with a pass key"}), key


def _sized(engine: FocusEngine, case: Case) -> FocusEngine:
    """`engine` with the settings of `case`."""
    if case.task == "paper":
        return paper_engine(engine, ModeSettings())
    if case.task == "look":
        return look_engine(engine, ModeSettings(chunk_size=case.chunk_size))
    settings = ModeSettings(chunk_size=case.chunk_size, local_window=engine.config.local_window)
    engine = focus_engine(engine, settings)
    if case.task != "int8":
        return engine
    config = replace(engine.config, memory_dtype="int8")
    return FocusEngine(engine.base, engine.adapter, config, store=engine.store)


def _reading(engine: FocusEngine, document: Document, questions: Sequence[str], steps: int) -> dict[str, Any]:
    """Reading into a memory, storing it, and two questions, or none."""
    if questions:
        _ask(engine, engine.read(Document.from_text(_WARM_UP), progress=_silent), "Who counts?", steps=1)
    peak, started = PeakMemory(engine.base.device), time.perf_counter()
    last = started

    def note(done: int, total: int) -> None:
        nonlocal last
        last = time.perf_counter()

    memory = engine.read(document, progress=note)
    settle(engine.base.device)
    row: dict[str, Any] = {
        "tokens": memory.num_tokens,
        "chunks": memory.num_chunks,
        "read_seconds": last - started,
        "store_seconds": time.perf_counter() - last,
        "kv_bytes": memory.num_bytes,
        "kv_bytes_as_computed": memory.num_tokens * engine.base.kv_bytes_per_token,
    }
    if questions:
        (first, steps_of_first), (second, steps_of_second) = (
            _ask(engine, memory, question, steps) for question in questions
        )
        row["first_seconds"], row["second_seconds"] = row["read_seconds"] + first, second
        row["token_seconds"] = _median(steps_of_first + steps_of_second)
    return {**row, "peak_bytes": peak.growth(), "process_bytes": peak.before + peak.growth()}


def _opening(engine: FocusEngine, document: Document, key: int | None) -> dict[str, Any]:
    """Open a stored memory in a new process and ask one question, for the pass key if there is one.

    The process has nothing else cached, so its keys and values come from the disk.
    """
    peak, started = PeakMemory(engine.base.device), time.perf_counter()
    memory = engine.read(document, progress=_silent)
    opened = time.perf_counter()
    if memory.tokens_encoded:
        return {"reopen_note": "the document is not in the store"}
    question, limit = (QUESTIONS[0], 1) if key is None else ("What is the pass key?", PASSKEY_NEW_TOKENS)
    answer = engine.ask(memory, question, max_new_tokens=limit, max_sources=0)
    row = {
        "reopen_seconds": opened - started,
        "reopened_first_seconds": answer.timings.first_token,
        "answer_seconds": time.perf_counter() - opened,
        "reopened_process_bytes": peak.before + peak.growth(),
    }
    found = {} if key is None else {"pass_key": key, "answer": answer.text, "right": str(key) in answer.text}
    return {**row, **found}


def _paper_mode(engine: FocusEngine, case: Case, settings: Settings) -> dict[str, Any]:
    """One sequence, split and decoded as in the paper's code; its first token includes reading."""
    _, ids = passage(tokenizer_of(engine.base), source_text(settings.text), case.length)
    clock, steps = _StepClock(), min(settings.steps, _PAPER_STEPS)
    output = engine.generate(ids, max_new_tokens=steps + 1, ignore_eos=True, grammar=clock)
    return {
        "tokens": len(ids),
        "chunks": output.usage.num_chunks,
        "first_seconds": output.timings.first_token,
        "token_seconds": _median(clock.steps),
    }


@torch.no_grad()
def _full_attention(case: Case, settings: Settings) -> dict[str, Any]:
    """Prefill of the whole text and greedy steps by transformers, with its KV cache and sdpa."""
    base = load_base(settings.model, device=settings.device, dtype=settings.dtype)
    model = base.model
    model.set_attn_implementation("sdpa")
    _, ids = passage(base.tokenizer, source_text(settings.text), case.length)
    fed, cache, seconds = torch.tensor([ids], device=base.device), None, []
    model(input_ids=fed[:, :_WARM_UP_TOKENS], use_cache=True, logits_to_keep=1)
    peak = PeakMemory(base.device)
    for _ in range(settings.steps + 1):
        started = time.perf_counter()
        output = model(input_ids=fed, past_key_values=cache, use_cache=True, logits_to_keep=1)
        fed, cache = torch.tensor([[int(output.logits[0, -1].argmax())]], device=base.device), output.past_key_values
        seconds.append(time.perf_counter() - started)
    return {
        "tokens": len(ids),
        "read_seconds": seconds[0],
        "first_seconds": seconds[0],
        "token_seconds": _median(seconds[1:]),
        "kv_bytes": len(ids) * base.kv_bytes_per_token,
        "peak_bytes": peak.growth(),
    }


def _llama_cpp(case: Case, settings: Settings) -> dict[str, Any]:
    """llama.cpp's server in this process, with as many threads as torch.

    It is limited to the model's context, so the prompt is truncated to leave room for the answer.
    """
    base = load_base(settings.model, device="cpu")
    _, ids = passage(base.tokenizer, source_text(settings.text), case.length)
    ids = ids[: base.context_length - settings.steps - _ROOM]
    llama = needed("xllamacpp", "bench")
    known = known_model(settings.model or DEFAULT_MODEL)
    path = settings.gguf or (str(find_gguf(known)) if known is not None else "")  # there is one: `missing_contenders`
    params = llama.CommonParams()
    params.model.path = path
    params.n_ctx = len(ids) + settings.steps + _ROOM
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.verbosity = -1
    for threads in (params.cpuparams, params.cpuparams_batch):
        threads.n_threads = torch.get_num_threads()
    peak = PeakMemory(torch.device("cpu"))
    asked = {"prompt": ids, "n_predict": settings.steps + 1, "cache_prompt": False, "ignore_eos": True}
    timings = llama.Server(params).handle_completions({**asked, "temperature": 0.0})["timings"]
    return {
        "tokens": timings["prompt_n"],
        "read_seconds": timings["prompt_ms"] / 1000,
        "first_seconds": timings["prompt_ms"] / 1000,
        "token_seconds": timings["predicted_per_token_ms"] / 1000,
        "peak_bytes": max(0, peak.growth() - os.path.getsize(path)),
        "version": getattr(llama, "__version__", ""),
    }


def _ask(engine: FocusEngine, memory: DocumentMemory, question: str, steps: int) -> tuple[float, list[float]]:
    """Seconds to the first token of an answer, and of each further step; without sources, which take extra passes."""
    clock = _StepClock()
    *_, last = engine.stream(memory, question, max_sources=0, max_new_tokens=steps + 1, ignore_eos=True, grammar=clock)
    if last.answer is None:  # the last piece always carries the answer
        raise RuntimeError("the stream ended without an answer")
    return last.answer.timings.first_token, clock.steps


class _StepClock:
    """A grammar that allows everything, is never complete, and records when each token is chosen."""

    complete = False

    def __init__(self) -> None:
        self._times: list[float] = []

    def start(self) -> _StepClock:
        """See `focusdoc.config.Grammar`."""
        return self

    def mask(self, scores: Tensor) -> Tensor:
        """See `focusdoc.config.GrammarState`; called when the logits are computed."""
        self._times.append(time.perf_counter())
        return scores

    def accept(self, token: int) -> None:
        """See `focusdoc.config.GrammarState`."""

    @property
    def steps(self) -> list[float]:
        """Seconds from each token to the next."""
        return [later - earlier for earlier, later in itertools.pairwise(self._times)]


def _median(seconds: list[float]) -> float | None:
    return statistics.median(seconds) if seconds else None


def _silent(done: int, total: int) -> None:
    """No progress bar for reading."""
