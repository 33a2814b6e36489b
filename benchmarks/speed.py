"""Speed beside transformers' full attention, in one run on one machine: reading, first token, second question, steps.

    python benchmarks/speed.py --lengths 8K 16K 32K --output speed.json

The text is random tokens: speed does not depend on what is read. Full attention is run up to --full-limit tokens, since
its reading grows with the square of the length. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from focusdoc import DocumentMemory, FocusEngine
from focusdoc.config import GenerationConfig
from focusdoc.decoding.parallel import ParallelDecoder
from focusdoc.decoding.prompt import question_prompt
from focusdoc.memory.reading import read_chunks

QUESTIONS = ("Who is the captain of the ship?", "When did the letter arrive in town?")


def timed(work: Callable[..., object], *arguments: object) -> float:
    """Seconds that `work(*arguments)` takes."""
    begun = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - begun


def ours(engine: FocusEngine, length: int, steps: int) -> dict[str, float]:
    """Seconds of reading, of the first token of two questions, and of a step."""
    ids = torch.randint(10, 40_000, (length,), generator=torch.Generator().manual_seed(0)).tolist()
    blocks = []

    def read() -> None:
        blocks.extend(read_chunks(engine.base, ids, engine.chunk_size, engine.kernel, batch=engine.config.read_batch))

    reading = timed(read)
    memory = DocumentMemory((0,) * length, (), tuple(blocks), engine.maker)
    firsts, per_step = [], []
    for question in QUESTIONS:
        decoder = engine._decoder(memory.blocks, GenerationConfig(max_new_tokens=steps + 1))
        assert isinstance(decoder, ParallelDecoder)
        prompt = question_prompt(engine.base.tokenizer, question)
        firsts.append(timed(decoder.start, prompt, prompt))
        per_step += [timed(decoder.step, token) for token in range(100, 100 + steps)]
    return {
        "read": reading,
        "first_token": firsts[0],
        "second_question": firsts[1],
        "step": statistics.median(per_step),
        "memory_bytes": float(memory.num_bytes),
    }


@torch.no_grad()
def full_attention(engine: FocusEngine, length: int, steps: int) -> dict[str, float]:
    """Seconds of transformers' own prefill of the whole text and of a step behind it, with its own cache and sdpa."""
    model = engine.base.model
    ids = torch.randint(10, 40_000, (1, length), generator=torch.Generator().manual_seed(0))
    state: dict[str, object] = {}

    def prefill() -> None:
        state["cache"] = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values

    def step(token: int) -> None:
        model(input_ids=torch.tensor([[token]]), past_key_values=state["cache"], use_cache=True, logits_to_keep=1)

    reading = timed(prefill)
    per_step = [timed(step, token) for token in range(100, 100 + steps)]
    return {"read": reading, "step": statistics.median(per_step)}


def tokens(text: str) -> int:
    """A number of tokens such as 8192 or 8K."""
    return int(text[:-1]) * 1024 if text.upper().endswith("K") else int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", nargs="+", type=tokens, default=[8192, 16_384, 32_768])
    parser.add_argument("--chunk-sizes", nargs="+", type=int, default=[1024, 2048])
    parser.add_argument("--full-limit", type=tokens, default=16_384)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--output", type=Path, default=Path("speed.json"))
    options = parser.parse_args()
    engine = FocusEngine.from_pretrained(store=None)
    timed(ours, engine, 2048, 2)  # warm
    rows = []
    for length in options.lengths:
        full = full_attention(engine, length, options.steps) if length <= options.full_limit else None
        for size in options.chunk_sizes:
            sized = FocusEngine(engine.base, engine.adapter, replace(engine.config, chunk_size=size))
            row = {"length": length, "chunk_size": size, **ours(sized, length, options.steps)}
            if full is not None:
                row |= {"full_read": full["read"], "full_step": full["step"]}
            rows.append(row)
            beside = (
                ""
                if full is None
                else (
                    f"; full attention reads in {full['read']:.1f} s ({full['read'] / row['read']:.1f}x), "
                    f"steps in {full['step']:.3f} s ({full['step'] / row['step']:.1f}x)"
                )
            )
            print(
                f"{length // 1024}K, chunks of {size}: read {row['read']:.1f} s, "
                f"first token {row['first_token']:.2f} s, "
                f"second question {row['second_question']:.2f} s, step {row['step']:.3f} s{beside}",
                flush=True,
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    options.output.write_text(json.dumps({"rows": rows, "peak_bytes": peak}, indent=1) + "\n")


if __name__ == "__main__":
    main()
