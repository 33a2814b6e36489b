"""Accuracy, memory and time of approximations: int8 memories, and decoding with only the active chunks.

    python benchmarks/fidelity.py --data ../shared/data --ways int8 auto 8 --tokens 8192 32768 --cases 50

For every length, each case plants three facts in a held-out novel (`benchmarks/heldout.py`) and answers a question from
the exact memory and in all --ways: "int8" quantizes the memory to 8 bits; "auto" and numbers are values of
`FocusConfig.active_chunks`. Reports exact answers, the difference of the logits while both are fed the exact engine's
answer, how often both have the same top token, and the bytes and the seconds of a step.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from novel import Novel, sized
from torch import Tensor

from focusdoc import DocumentMemory, FocusEngine
from focusdoc.config import ActiveChunks
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.int8 import Int8Block
from focusdoc.training.facts import FACT_MAKERS

#: Most steps of a case.
ANSWER_TOKENS = 24


@dataclass(frozen=True)
class Run:
    """One question over one memory.

    Attributes:
        logits: float32 [steps, vocab]. seconds: of each step after the first token.
    """

    logits: Tensor
    seconds: list[float]


@dataclass(frozen=True)
class Row:
    """One way at one length compared with the exact engine ("base"); drift in logits, times of a step as medians."""

    way: str
    kind: str
    num_tokens: int
    chunk_size: int
    cases: int
    exact_base: float
    exact: float
    same_answer: float
    drift_max: float
    drift_mean: float
    logit_spread: float
    same_token: float
    steps: int
    bytes_base: int
    bytes: int
    first_seconds_base: float
    first_seconds: float
    step_seconds_base: float
    step_seconds: float


class Tally:
    """Statistics over the cases of one way."""

    def __init__(self) -> None:
        self.exact = self.same = self.same_tokens = self.steps = self.bytes = 0
        self.first: list[float] = []
        self.later: list[float] = []
        self.drifts: list[Tensor] = []

    def add(self, run: Run, said: str, gold: str, num_bytes: int, base: Run, base_said: str) -> None:
        """Add one case."""
        self.exact += said == gold
        self.same += said == base_said
        self.same_tokens += int((run.logits.argmax(-1) == base.logits.argmax(-1)).sum())
        self.steps += len(run.logits)
        self.bytes = num_bytes
        self.first.append(run.seconds[0])
        self.later += run.seconds[1:]
        self.drifts.append((run.logits - base.logits).abs().flatten())


def quantized(blocks: Sequence[MemoryBlock]) -> Iterator[MemoryBlock]:
    """The blocks quantized as by reading into int8."""
    for block in blocks:
        keys, values = block.keys, block.values
        shape = (keys.shape[0], keys.shape[1], keys.shape[2], keys.shape[3], keys.shape[4])
        small = Int8Block.empty(shape, keys.dtype, keys.device)
        for layer in range(len(keys)):
            small.put(layer, 0, keys[layer], values[layer])
        yield small


def follow(engine: FocusEngine, memory: DocumentMemory, question: str, answer: Sequence[int] | None) -> Run:
    """Decode greedily, or be fed `answer`; logits of every step and the seconds it took, the first step's in front."""
    request = engine._request(memory, question, {"max_new_tokens": ANSWER_TOKENS})
    decoder = engine.own_way.decoder(request.blocks, ANSWER_TOKENS)
    started = time.perf_counter()
    logits = [decoder.start(request.local_ids, request.prompt_ids)]
    seconds = [time.perf_counter() - started]
    while len(logits) < (ANSWER_TOKENS if answer is None else len(answer)):
        token = int(logits[-1].argmax()) if answer is None else answer[len(logits) - 1]
        if answer is None and token in engine.base.eos_token_ids:
            break
        started = time.perf_counter()
        logits.append(decoder.step(token))
        seconds.append(time.perf_counter() - started)
    return Run(torch.stack(logits), seconds)


def changed(way: str, engine: FocusEngine, memory: DocumentMemory) -> tuple[FocusEngine, DocumentMemory]:
    """The engine and the memory of a way."""
    if way == "base":
        return engine, memory
    if way == "int8":
        return engine, replace(memory, blocks=tuple(quantized(memory.blocks)))
    active: ActiveChunks = "auto" if way == "auto" else int(way)
    return FocusEngine(engine.base, engine.adapter, replace(engine.config, active_chunks=active)), memory


def compare(
    engine: FocusEngine, data: Path, kind: str, num_tokens: int, cases: int, ways: Sequence[str]
) -> Iterator[Row]:
    """`cases` planted facts of one kind at one length, in every way."""
    novel = Novel(engine, data, num_tokens)
    tallies = {way: Tally() for way in ("base", *ways)}
    spread: list[float] = []
    for case in range(cases):
        rng = random.Random(f"{kind}-{num_tokens}-{engine.chunk_size}-{case}")
        facts = [FACT_MAKERS[kind](rng) for _ in range(1 if kind == "passkey" else 3)]
        planted = novel.planted(facts, rng)
        question = rng.choice(facts[0].questions)
        base: tuple[Run, str] | None = None
        for way, tally in tallies.items():
            asked, memory = changed(way, engine, planted)
            run = follow(asked, memory, question, base[0].logits.argmax(-1).tolist() if base else None)
            said = asked.ask(memory, question, max_new_tokens=48, max_sources=0).text.strip()
            base = base or (run, said)
            tally.add(run, said, facts[0].answer, memory.num_bytes, *base)
        if base is not None:
            spread.append(float(base[0].logits.std(dim=-1).mean()))
    plain = tallies.pop("base")
    for way, tally in tallies.items():
        yield Row(
            way=way,
            kind=kind,
            num_tokens=num_tokens,
            chunk_size=engine.chunk_size,
            cases=cases,
            exact_base=plain.exact / cases,
            exact=tally.exact / cases,
            same_answer=tally.same / cases,
            drift_max=max(float(drift.max()) for drift in tally.drifts),
            drift_mean=statistics.fmean(float(drift.mean()) for drift in tally.drifts),
            logit_spread=statistics.fmean(spread),
            same_token=tally.same_tokens / tally.steps,
            steps=tally.steps,
            bytes_base=plain.bytes,
            bytes=tally.bytes,
            first_seconds_base=statistics.median(plain.first),
            first_seconds=statistics.median(tally.first),
            step_seconds_base=statistics.median(plain.later),
            step_seconds=statistics.median(tally.later),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--adapter", default="auto")
    parser.add_argument("--ways", nargs="+", default=["int8", "auto"], help="int8, auto, or a number of chunks")
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 32_768, 131_072])
    parser.add_argument("--kinds", nargs="+", default=["number"], choices=sorted(FACT_MAKERS))
    parser.add_argument("--chunk-size", type=int)
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--output", type=Path, default=Path("fidelity.json"))
    options = parser.parse_args()
    engine = FocusEngine.from_pretrained(adapter=options.adapter, store=None)
    engine = sized(engine, options.chunk_size or engine.chunk_size)
    about = {"model": engine.base.name, "dtype": str(engine.base.dtype), "threads": torch.get_num_threads()}
    rows: list[Row] = []
    for kind in options.kinds:
        for num_tokens in options.tokens:
            for row in compare(engine, options.data, kind, num_tokens, options.cases, options.ways):
                rows.append(row)
                print(json.dumps(asdict(row)), flush=True)
            found = {"about": about, "rows": [asdict(row) for row in rows]}
            options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
