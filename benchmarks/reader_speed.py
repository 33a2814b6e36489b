"""A reader's seconds with weights of few bits and without, beside llama.cpp's with the same file; and what they change.

    python benchmarks/reader_speed.py --data ../shared/data --threads 1 --output speed.json

In every round each way reads the same tokens of a novel and decodes greedily behind them, so that other work on the
machine slows all of them; the figures are medians of the rounds. Then the few bits are compared with the model's own
weights: next-token logits along other pieces of novels, step by step, and greedy answers to XQuAD's questions (of the
first 80% of its articles) with nothing but the right paragraph.
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
from focusdoc.readers.reader import reading_prompt, whole

#: Seconds to the first token, and seconds of each one after it.
Times = tuple[float, list[float]]
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
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    told: dict[str, Any] = {"threads": given.threads, "load": {}}
    for name, few_rows in (("own weights", False), ("few bits", True)):
        begun = time.perf_counter()
        base = load_base(given.model, few_rows=few_rows)
        told["load"][name] = time.perf_counter() - begun
    plain = copy.copy(base)
    plain.decoding_model = base.model
    novels = sorted((given.data / "books").glob("*.txt"))
    ids = tokenize(base.tokenizer, load(novels[0]).text).token_ids[1000 : 1000 + given.tokens]
    ways: dict[str, Callable[[], Times]] = {
        "own weights": lambda: decode(plain, ids, given.steps),
        "few bits": lambda: decode(base, ids, given.steps),
        "llama.cpp": llama_cpp(given.model, ids, given.steps, given.threads),
    }
    if given.rounds:
        told["seconds"] = speed(ways, given.rounds)
    if given.pieces:
        told["drift"] = drift(plain, base, [piece(base, path, given.tokens) for path in novels[: given.pieces]])
    if given.questions:
        told["answers"] = answers(plain, base, given.data / "qa" / "xquad.en.json", given.questions)
    print(json.dumps(told, indent=2))
    if given.output:
        given.output.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def decode(base: BaseModel, ids: Sequence[int], steps: int) -> Times:
    """Greedily, as a reader does."""
    decoder = PlainDecoder(base)
    begun = time.perf_counter()
    logits = decoder.start(ids)
    first, seconds = time.perf_counter() - begun, []
    for _ in range(steps):
        begun = time.perf_counter()
        logits = decoder.step(int(logits.argmax()))
        seconds.append(time.perf_counter() - begun)
    return first, seconds


def llama_cpp(model: str, ids: Sequence[int], steps: int, threads: int) -> Callable[[], Times]:
    """The same with llama.cpp and the model's GGUF file, by its own clock, which tells the mean of the steps."""
    import xllamacpp

    known = known_model(model)
    assert known is not None, model
    params = xllamacpp.CommonParams()
    params.model.path = str(find_gguf(known))
    params.n_ctx, params.n_parallel, params.n_gpu_layers, params.verbosity = len(ids) + steps + 8, 1, 0, -1
    for each in (params.cpuparams, params.cpuparams_batch):
        each.n_threads = threads
    server = xllamacpp.Server(params)
    asked = {"prompt": list(ids), "n_predict": steps + 1, "cache_prompt": False, "ignore_eos": True, "temperature": 0.0}

    def run() -> Times:
        timings = server.handle_completions(asked)["timings"]
        return timings["prompt_ms"] / 1000, [timings["predicted_per_token_ms"] / 1000]

    return run


def speed(ways: dict[str, Callable[[], Times]], rounds: int) -> dict[str, dict[str, float]]:
    """Medians over the rounds, and of the tokens' seconds the ratio to llama.cpp's of the same round."""
    firsts: dict[str, list[float]] = {name: [] for name in ways}
    tokens: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name, way in ways.items():
            first, seconds = way()
            firsts[name].append(first)
            tokens[name].append(statistics.mean(seconds))
        shown = ", ".join(f"{name} {firsts[name][-1]:.2f} s, {tokens[name][-1] * 1e3:.1f} ms" for name in ways)
        print(f"round {turn + 1}: {shown}", flush=True)

    def ratio(values: dict[str, list[float]], name: str) -> float:
        return statistics.median(a / b for a, b in zip(values[name], values["llama.cpp"], strict=True))

    return {
        name: {
            "first token": statistics.median(firsts[name]),
            "a token": statistics.median(tokens[name]),
            "first token to llama.cpp's": ratio(firsts, name),
            "a token to llama.cpp's": ratio(tokens, name),
        }
        for name in ways
    }


def piece(base: BaseModel, path: Path, length: int) -> list[int]:
    """Tokens from the middle of a novel."""
    ids = tokenize(base.tokenizer, load(path).text).token_ids
    return list(ids[len(ids) // 2 :][: length + STEPS_OF_DRIFT])


def drift(plain: BaseModel, few: BaseModel, pieces: Sequence[Sequence[int]]) -> dict[str, float]:
    """How far next-token logits are apart along the last tokens of each piece, fed one by one."""
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
    """Largest and mean difference of two logits, their KL divergence, whether their best token is equal."""
    apart = (wanted - found).abs()
    old, new = wanted.log_softmax(dim=-1), found.log_softmax(dim=-1)
    divergence = (old.exp() * (old - new)).sum()
    return float(apart.max()), float(apart.mean()), float(divergence), bool(wanted.argmax() == found.argmax())


def answers(plain: BaseModel, few: BaseModel, file: Path, count: int) -> dict[str, Any]:
    """F1 of greedy answers from the right paragraph alone, and how many are equal."""
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
            whole(LocalReader(each).write(reading_prompt(question, [context]), settings))[0] for each in (plain, few)
        ]
        for name, text in zip(scores, said, strict=True):
            scores[name].append(f1(text, golds))
        equal += said[0] == said[1]
        if number % 10 == 0:
            print(f"answers: {number} of {count}", flush=True)
    return {"questions": count, "F1": {name: statistics.mean(each) for name, each in scores.items()}, "equal": equal}


if __name__ == "__main__":
    main()
