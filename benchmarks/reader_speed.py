"""Speed and accuracy of a reader with quantized weights, compared with its own weights and with llama.cpp.

    python benchmarks/reader_speed.py --data ../shared/data --threads 1 --output speed.json

In every round each way reads the same tokens of a novel and decodes greedily, so that other load on the machine slows
all of them; results are medians over the rounds. CPU seconds exclude the time used by other processes. Then the
quantized weights are compared with the model's own: next-token logits on other parts of novels, step by step, and
greedy answers to XQuAD questions (of the first 80% of its articles) with only the right paragraph.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from focusdoc import GenerationConfig, load
from focusdoc.decoding.plain import PlainDecoder
from focusdoc.documents import tokenize
from focusdoc.evaluation.natural_scores import f1
from focusdoc.modeling.base import BaseModel, load_base
from focusdoc.modeling.catalogue import DEFAULT_READER, known_model
from focusdoc.modeling.installed import find_gguf
from focusdoc.readers.local import LocalReader
from focusdoc.readers.reader import collect, reading_prompt

#: Seconds to the first token, seconds per further token, CPU seconds per further token.
Times = tuple[float, float, float]
STEPS_OF_DRIFT = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_READER, help="a name of the catalogue")
    parser.add_argument("--data", type=Path, required=True, help="a folder with books/ and qa/xquad.en.json")
    parser.add_argument("--tokens", type=int, default=700)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pieces", type=int, default=8, help="of novels, for the drift of logits")
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results: dict[str, Any] = {"threads": args.threads, "load": {}}
    for name, few_rows in (("own weights", False), ("few bits", True)):
        started = time.perf_counter()
        base = load_base(args.model, few_rows=few_rows)
        results["load"][name] = time.perf_counter() - started
    plain = copy.copy(base)
    plain.decoding_model = base.model
    novels = sorted((args.data / "books").glob("*.txt"))
    ids = tokenize(base.tokenizer, load(novels[0]).text).token_ids[1000 : 1000 + args.tokens]
    ways: dict[str, Callable[[], Times]] = {
        "own weights": lambda: decode(plain, ids, args.steps),
        "few bits": lambda: decode(base, ids, args.steps),
        "llama.cpp": llama_cpp(args.model, ids, args.steps, args.threads),
    }
    if args.rounds:
        results["seconds"] = speed(ways, args.rounds)
    if args.pieces:
        results["drift"] = drift(plain, base, [piece(base, path, args.tokens) for path in novels[: args.pieces]])
    if args.questions:
        results["answers"] = answers(plain, base, args.data / "qa" / "xquad.en.json", args.questions)
    print(json.dumps(results, indent=2))
    if args.output:
        args.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def decode(base: BaseModel, ids: Sequence[int], steps: int) -> Times:
    """Greedy decoding, as by a reader."""
    decoder = PlainDecoder(base)
    started = time.perf_counter()
    logits = decoder.start(ids)
    first, started, used = time.perf_counter() - started, time.perf_counter(), time.process_time()
    for _ in range(steps):
        logits = decoder.step(int(logits.argmax()))
    return first, (time.perf_counter() - started) / steps, (time.process_time() - used) / steps


def llama_cpp(model: str, ids: Sequence[int], steps: int, threads: int) -> Callable[[], Times]:
    """The same with llama.cpp and the model's GGUF file, by llama.cpp's timings."""
    import xllamacpp

    known = known_model(model)
    assert known is not None, model
    params = xllamacpp.CommonParams()
    params.model.path = str(find_gguf(known))
    params.n_ctx, params.n_parallel, params.n_gpu_layers, params.verbosity = len(ids) + steps + 8, 1, 0, -1
    for each in (params.cpuparams, params.cpuparams_batch):
        each.n_threads = threads
    server = xllamacpp.Server(params)
    asked = {"prompt": list(ids), "ignore_eos": True, "temperature": 0.0}

    def run() -> Times:
        read = server.handle_completions({**asked, "cache_prompt": False, "n_predict": 1})["timings"]
        used = time.process_time()  # all of the prompt but its last token is cached now
        wrote = server.handle_completions({**asked, "cache_prompt": True, "n_predict": steps})["timings"]
        used = time.process_time() - used
        return read["prompt_ms"] / 1000, wrote["predicted_per_token_ms"] / 1000, used / steps

    return run


def speed(ways: dict[str, Callable[[], Times]], rounds: int) -> dict[str, dict[str, float]]:
    """Medians over the rounds, and medians of the ratios to llama.cpp in the same round."""
    times: dict[str, list[Times]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name, way in ways.items():
            times[name].append(way())
            first, token, used = times[name][-1]
            print(f"round {turn + 1}: {name} {first:.2f} s, {token * 1e3:.1f} ms ({used * 1e3:.1f})", flush=True)
    results: dict[str, dict[str, float]] = {name: {} for name in ways}
    for at, what in enumerate(("first token", "a token", "a token, processor")):
        for name in ways:
            pairs = [(ours[at], theirs[at]) for ours, theirs in zip(times[name], times["llama.cpp"], strict=True)]
            results[name][what] = statistics.median(ours for ours, _ in pairs)
            results[name][f"{what}, to llama.cpp's"] = statistics.median(ours / theirs for ours, theirs in pairs)
    return results


def piece(base: BaseModel, path: Path, length: int) -> list[int]:
    """Tokens from the middle of a novel."""
    ids = tokenize(base.tokenizer, load(path).text).token_ids
    return list(ids[len(ids) // 2 :][: length + STEPS_OF_DRIFT])


def drift(plain: BaseModel, few: BaseModel, pieces: Sequence[Sequence[int]]) -> dict[str, float]:
    """Differences of next-token logits over the last tokens of each piece, fed one by one."""
    apart: list[tuple[float, float, float, bool]] = []
    for ids in pieces:
        decoders = [PlainDecoder(each) for each in (plain, few)]
        for decoder in decoders:
            decoder.start(ids[:-STEPS_OF_DRIFT])
        for token in ids[-STEPS_OF_DRIFT:]:
            wanted, found = (decoder.step(token) for decoder in decoders)
            apart.append(differences(wanted, found))
        print(f"drift: {len(apart)} tokens", flush=True)
    largest, means, divergences, equal = zip(*apart, strict=True)
    return {
        "tokens": len(apart),
        "largest difference": max(largest),
        "mean difference": statistics.mean(means),
        "KL divergence, nats": statistics.mean(divergences),
        "equal best token": statistics.mean(equal),
    }


def differences(wanted: Tensor, found: Tensor) -> tuple[float, float, float, bool]:
    """Largest and mean difference of two logits, KL divergence, and whether the top token is equal."""
    apart = (wanted - found).abs()
    old, new = wanted.log_softmax(dim=-1), found.log_softmax(dim=-1)
    divergence = (old.exp() * (old - new)).sum()
    return float(apart.max()), float(apart.mean()), float(divergence), bool(wanted.argmax() == found.argmax())


def answers(plain: BaseModel, few: BaseModel, file: Path, count: int) -> dict[str, Any]:
    """F1 of greedy answers from only the right paragraph, and how many are equal."""
    articles = json.loads(file.read_text(encoding="utf-8"))["data"]
    rows = [
        (paragraph["context"], asked["question"], [answer["text"] for answer in asked["answers"]])
        for article in articles[: round(0.8 * len(articles))]
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    ]
    settings = GenerationConfig(max_new_tokens=32)
    scores: dict[str, list[float]] = {"own weights": [], "few bits": []}
    equal = 0
    for number, (context, question, golds) in enumerate(random.Random(0).sample(rows, count), start=1):
        said = [
            collect(LocalReader(each).write(reading_prompt(question, [context]), settings))[0] for each in (plain, few)
        ]
        for name, text in zip(scores, said, strict=True):
            scores[name].append(f1(text, golds))
        equal += said[0] == said[1]
        if number % 10 == 0:
            print(f"answers: {number} of {count}", flush=True)
    return {"questions": count, "F1": {name: statistics.mean(each) for name, each in scores.items()}, "equal": equal}


if __name__ == "__main__":
    main()
