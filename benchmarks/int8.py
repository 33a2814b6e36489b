"""What int8 memories cost in accuracy and take in bytes and time, against memories in the model's own dtype.

    python benchmarks/int8.py --data ../shared/data --tokens 8192 131072 --cases 50 --output int8.json

For every length, each case plants three facts in a held-out novel (`benchmarks/heldout.py`), and the same memory is
asked twice: as the model computed it, and rounded to int8. Told are exact answers of both, how far the logits drift
while both are fed the answer that the model's own dtype gives, how often both would choose the same token, and the
bytes and the seconds of a step.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from heldout import Novel, sized
from torch import Tensor

from focusdoc import DocumentMemory, FocusEngine
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.int8 import Int8Block
from focusdoc.training.facts import FACT_MAKERS

#: Steps of one case at most.
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
    """One length and kind of facts; drift in logits, times of a step as medians."""

    kind: str
    num_tokens: int
    chunk_size: int
    cases: int
    exact_model: float
    exact_int8: float
    same_answer: float
    drift_max: float
    drift_mean: float
    logit_spread: float
    same_token: float
    steps: int
    bytes_model: int
    bytes_int8: int
    bytes_ratio: float
    step_seconds_model: float
    step_seconds_int8: float
    first_seconds_model: float
    first_seconds_int8: float


def quantized(blocks: Sequence[MemoryBlock]) -> Iterator[MemoryBlock]:
    """The blocks as reading into int8 would have made them."""
    for block in blocks:
        keys, values = block.keys, block.values
        shape = (keys.shape[0], keys.shape[1], keys.shape[2], keys.shape[3], keys.shape[4])
        small = Int8Block.empty(shape, keys.dtype, keys.device)
        for layer in range(len(keys)):
            small.put(layer, 0, keys[layer], values[layer])
        yield small


def follow(engine: FocusEngine, memory: DocumentMemory, question: str, answer: Sequence[int] | None) -> Run:
    """Decode greedily, or be fed `answer`; logits of every step and the seconds it took, the first step's in front."""
    settings, local_ids, prompt_ids = engine._prepare(question, "auto", {"max_new_tokens": ANSWER_TOKENS})
    decoder = engine._decoder(memory.blocks, settings)
    begun = time.perf_counter()
    logits = [decoder.start(local_ids, prompt_ids)]
    seconds = [time.perf_counter() - begun]
    while len(logits) < (ANSWER_TOKENS if answer is None else len(answer)):
        token = int(logits[-1].argmax()) if answer is None else answer[len(logits) - 1]
        if answer is None and token in engine.base.eos_token_ids:
            break
        begun = time.perf_counter()
        logits.append(decoder.step(token))
        seconds.append(time.perf_counter() - begun)
    return Run(torch.stack(logits), seconds)


def compare(engine: FocusEngine, data: Path, kind: str, num_tokens: int, cases: int) -> Row:
    """`cases` planted facts of one kind at one length."""
    novel = Novel(engine, data, num_tokens)
    exact, same, same_tokens, steps = {"model": 0, "int8": 0}, 0, 0, 0
    drifts: list[Tensor] = []
    spread: list[float] = []
    times: dict[str, list[float]] = {"model": [], "int8": []}
    first: dict[str, list[float]] = {"model": [], "int8": []}
    sizes = {"model": 0, "int8": 0}
    for case in range(cases):
        rng = random.Random(f"{kind}-{num_tokens}-{engine.chunk_size}-{case}")
        facts = [FACT_MAKERS[kind](rng) for _ in range(1 if kind == "passkey" else 3)]
        plain = novel.planted(facts, rng)
        memories = {"model": plain, "int8": novel.memory(list(quantized(plain.blocks)))}
        question = rng.choice(facts[0].questions)
        given: list[int] | None = None
        runs: dict[str, Run] = {}
        said: dict[str, str] = {}
        for name, memory in memories.items():
            runs[name] = follow(engine, memory, question, given)
            given = given or runs[name].logits.argmax(-1).tolist()
            said[name] = engine.ask(memory, question, max_new_tokens=48).text.strip()
            exact[name] += said[name] == facts[0].answer
            first[name].append(runs[name].seconds[0])
            times[name] += runs[name].seconds[1:]
            sizes[name] = memory.num_bytes
        same += said["model"] == said["int8"]
        drift = (runs["model"].logits - runs["int8"].logits).abs()
        drifts.append(drift.flatten())
        spread.append(float(runs["model"].logits.std(dim=-1).mean()))
        same_tokens += int((runs["model"].logits.argmax(-1) == runs["int8"].logits.argmax(-1)).sum())
        steps += len(drift)
    return Row(
        kind=kind,
        num_tokens=num_tokens,
        chunk_size=engine.chunk_size,
        cases=cases,
        exact_model=exact["model"] / cases,
        exact_int8=exact["int8"] / cases,
        same_answer=same / cases,
        drift_max=max(float(drift.max()) for drift in drifts),
        drift_mean=statistics.fmean(float(drift.mean()) for drift in drifts),
        logit_spread=statistics.fmean(spread),
        same_token=same_tokens / steps,
        steps=steps,
        bytes_model=sizes["model"],
        bytes_int8=sizes["int8"],
        bytes_ratio=sizes["int8"] / sizes["model"],
        step_seconds_model=statistics.median(times["model"]),
        step_seconds_int8=statistics.median(times["int8"]),
        first_seconds_model=statistics.median(first["model"]),
        first_seconds_int8=statistics.median(first["int8"]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--adapter", default="auto")
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 32_768, 131_072])
    parser.add_argument("--kinds", nargs="+", default=["number"], choices=sorted(FACT_MAKERS))
    parser.add_argument("--chunk-size", type=int)
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--output", type=Path, default=Path("int8.json"))
    options = parser.parse_args()
    engine = FocusEngine.from_pretrained(adapter=options.adapter, store=None)
    engine = sized(engine, options.chunk_size or engine.chunk_size)
    about = {"model": engine.base.name, "dtype": str(engine.base.dtype), "threads": torch.get_num_threads()}
    rows: list[Row] = []
    for kind in options.kinds:
        for num_tokens in options.tokens:
            rows.append(compare(engine, options.data, kind, num_tokens, options.cases))
            print(json.dumps(asdict(rows[-1])), flush=True)
            found = {"about": about, "rows": [asdict(row) for row in rows]}
            options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
