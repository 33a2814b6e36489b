"""Held-out results of an adapter: planted facts, pass keys, pairs, words, reconstruction, perplexity, paragraphs.

    python benchmarks/heldout.py --data ../shared/data --adapter runs/default/adapter --output results.json

All cases use greedy decoding, incremental mode and exact match, on novels and questions that the recipe of the shipped
adapter (scripts/train_default_adapter.py) holds out. Chunks are independent, so a novel is read once and only the chunk
with a planted fact is read again for each case; the memory equals that of the whole novel with the facts.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from novel import NOVELS, Novel, bare_memory, read_tokens, sized
from torch.nn import functional

from focusdoc import Answer, FocusConfig, FocusEngine, load
from focusdoc.decoding.prompt import encode_text
from focusdoc.documents import tokenize
from focusdoc.evaluation.natural_scores import word_f1
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.training.dense import TrainingPrompt, dense_logits
from focusdoc.training.facts import FACT_MAKERS, Fact
from focusdoc.training.sources import load_questions

PASSKEY_NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "


@dataclass
class Result:
    """One row of the table: the share of right cases, or a mean.

    `looked` is the share of cases where the chunk with the answer had the most attention, before passages were quoted;
    further misses are failures of reading, not of retrieval.
    """

    test: str
    cases: int
    score: float
    seconds: float
    misses: list[tuple[str, str]]
    looked: float | None = None


def top_chunk(answer: Answer) -> int:
    """The chunk with the most attention."""
    return max(range(len(answer.chunk_shares)), key=answer.chunk_shares.__getitem__)


def needles(engine: FocusEngine, data: Path, kind: str, num_tokens: int, chunk_size: int, cases: int) -> Result:
    """Planted facts of one kind, each with two distractors of its kind (pass keys without)."""
    started = time.perf_counter()
    novel = Novel(sized(engine, chunk_size), data, num_tokens)
    right, looked, misses = 0, 0, []
    for case in range(cases):
        rng = random.Random(f"{kind}-{num_tokens}-{chunk_size}-{case}")
        facts = [FACT_MAKERS[kind](rng) for _ in range(1 if kind == "passkey" else 3)]
        memory = novel.planted(facts, rng)
        answer = novel.engine.ask(memory, rng.choice(facts[0].questions), max_new_tokens=48)
        start = top_chunk(answer) * chunk_size
        looked += facts[0].statement in engine.base.tokenizer.decode(list(memory.token_ids[start : start + chunk_size]))
        found = answer.text.strip()
        if found == facts[0].answer:
            right += 1
        else:
            misses.append((facts[0].answer, found))
    name = f"{kind}, {num_tokens // 1024}K tokens, chunks of {chunk_size}"
    return Result(name, cases, right / cases, time.perf_counter() - started, misses[:12], looked / cases)


def words_alone(engine: FocusEngine, data: Path, num_tokens: int, chunk_size: int, cases: int) -> Result:
    """The base model with only the chunk of the fact in its prompt: does its reply contain the answer?

    The facts and questions are those of `needles`.
    """
    started = time.perf_counter()
    novel = Novel(sized(engine, chunk_size), data, num_tokens)
    right, misses = 0, []
    for case in range(cases):
        rng = random.Random(f"words-{num_tokens}-{chunk_size}-{case}")
        facts = [FACT_MAKERS["words"](rng) for _ in range(3)]
        ids = novel.planted(facts, rng).token_ids
        chunks = [engine.base.tokenizer.decode(ids[at : at + chunk_size]) for at in range(0, len(ids), chunk_size)]
        chunk = next(text for text in chunks if facts[0].statement in text)
        found = base_reply(engine, f"{chunk}\n\nAnswer in a few words: {rng.choice(facts[0].questions)}")
        if facts[0].answer.lower() in found.lower():
            right += 1
        else:
            misses.append((facts[0].answer, found))
    name = f"words, base model, the chunk of {chunk_size} alone, answer contained"
    return Result(name, cases, right / cases, time.perf_counter() - started, misses[:12])


def base_reply(engine: FocusEngine, message: str) -> str:
    """The base model's reply to `message`, at most 32 tokens."""
    tokenizer = engine.base.tokenizer
    ids = tokenizer.apply_chat_template([{"role": "user", "content": message}], add_generation_prompt=True)["input_ids"]
    reply = engine.base.model.generate(torch.tensor([ids]), max_new_tokens=32, do_sample=False)[0, len(ids) :]
    text: str = tokenizer.decode(reply, skip_special_tokens=True)
    return text


def passkey(engine: FocusEngine, num_tokens: int, cases: int, seed: int = 0) -> Result:
    """The authors' test: one pass key among repeated noise sentences (Figure 1)."""
    started = time.perf_counter()
    tokenizer = engine.base.tokenizer
    size = engine.chunk_size
    noise = encode_text(tokenizer, PASSKEY_NOISE)
    repeats = [(noise * (size // len(noise) + 2))[shift : shift + size] for shift in range(len(noise))]
    blocks = {shift: read_tokens(engine, ids)[0] for shift, ids in enumerate(repeats)}
    right, misses = 0, []
    for case in range(cases):
        rng = random.Random(f"passkey-{num_tokens}-{seed}-{case}")
        key = str(rng.randrange(10_000, 100_000))
        statement = encode_text(tokenizer, f"The pass key is {key}. Remember it. {key} is the pass key. ")
        count = num_tokens // size
        place, shift = rng.randrange(count), 0
        chunks: list[list[int]] = []
        chosen: list[MemoryBlock] = []
        for index in range(count):
            chunks.append(repeats[shift])
            if index == place:
                at = rng.randint(0, size - len(statement))
                chunks[-1] = (repeats[shift][:at] + statement + repeats[shift][at:])[:size]
                chosen += read_tokens(engine, chunks[-1])
            else:
                chosen.append(blocks[shift])
            shift = (shift + size) % len(noise)
        memory = bare_memory(engine, chunks, chosen)
        found = engine.ask(memory, "What is the pass key?", max_new_tokens=12).text.strip()
        if found == key:
            right += 1
        else:
            misses.append((key, found))
    name = f"passkey in noise, {num_tokens // 1000}K tokens, chunks of {size}"
    return Result(name, cases, right / cases, time.perf_counter() - started, misses[:12])


def infinitebench(engine: FocusEngine, path: Path, limit: int) -> Result:
    """Official pass key rows: context as document, input as question; the first run of digits is scored."""
    started = time.perf_counter()
    right, misses, cases = 0, [], 0
    for line in path.read_text(encoding="utf-8").splitlines()[:limit]:
        row = json.loads(line)
        gold = row["answer"][0] if isinstance(row["answer"], list) else row["answer"]
        answer = engine.ask(engine.read(load(row["context"].encode())), row["input"], max_new_tokens=16).text
        digits = re.search(r"\d+", answer)
        cases += 1
        if digits and digits.group() == str(gold):
            right += 1
        else:
            misses.append((str(gold), answer))
    return Result(f"InfiniteBench {path.stem}", cases, right / cases, time.perf_counter() - started, misses[:12])


def pairs(engine: FocusEngine, cases: int, count: int = 140) -> Result:
    """Retrieval of a UUID by its key among `count` pairs, without splitting pairs across chunks."""
    started = time.perf_counter()
    tokenizer = engine.base.tokenizer
    right, looked, misses = 0, 0, []
    for group in range(math.ceil(cases / 10)):
        rng = random.Random(f"pairs-{group}")
        known = [[str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in "kv"] for _ in range(count)]
        chunks: list[list[int]] = [[]]
        place: dict[str, int] = {}
        for key, value in known:
            line = encode_text(tokenizer, f'"{key}": "{value}",\n')
            if len(chunks[-1]) + len(line) > engine.chunk_size:
                chunks.append([])
            chunks[-1] += line
            place[key] = len(chunks) - 1
        blocks = [block for chunk in chunks for block in read_tokens(engine, chunk)]
        memory = bare_memory(engine, chunks, blocks)
        for key, value in rng.sample(known, min(10, cases - group * 10)):
            answer = engine.ask(memory, f'What is the value of the key "{key}"?', max_new_tokens=48)
            looked += top_chunk(answer) == place[key]
            found = answer.text.strip()
            if found == value:
                right += 1
            else:
                misses.append((value, found))
    name = f"UUID among {count} pairs, {len(blocks)} chunks of {engine.chunk_size}"
    return Result(name, cases, right / cases, time.perf_counter() - started, misses[:12], looked / cases)


def target_losses(engine: FocusEngine, blocks: list[MemoryBlock], ids: list[int], targets: int) -> tuple[float, float]:
    """Mean cross entropy in nats and token accuracy of the last `targets` of `ids` over `blocks`."""
    prompt = TrainingPrompt(tuple(ids), targets, "held out")
    with torch.no_grad():
        (logits,) = dense_logits(engine.base, engine.require_adapter(), blocks, [prompt], engine.config, engine.kernel)
    gold = torch.tensor(ids[-targets:])
    return float(functional.cross_entropy(logits, gold)), float((logits.argmax(-1) == gold).float().mean())


def reconstruction(engine: FocusEngine, data: Path, cases: int) -> Result:
    """Token accuracy of reconstructing 32 tokens of a chunk after the 32 before them, among 16K tokens."""
    started = time.perf_counter()
    novel = Novel(engine, data, 16_384)
    scores = []
    for case in range(cases):
        rng = random.Random(f"reconstruction-{case}")
        chunk = rng.choice(novel.chunks)
        start = rng.randint(0, len(chunk) - 64)
        scores.append(target_losses(engine, [novel.block], chunk[start : start + 64], 32)[1])
    return Result("reconstruction, token accuracy, 16K", cases, sum(scores) / cases, time.perf_counter() - started, [])


def perplexity(engine: FocusEngine, data: Path, num_tokens: int) -> list[Result]:
    """Perplexity of 256 tokens of held-out novels: ours, and the base model with only the last 2,048 tokens."""
    started = time.perf_counter()
    ours, base = [], []
    local = 2048
    for name in NOVELS:
        ids = tokenize(engine.base.tokenizer, load(data / "books" / f"{name}.txt").text).token_ids[:num_tokens]
        blocks = list(read_tokens(engine, ids[: num_tokens - local]))
        limited = FocusEngine(engine.base, engine.adapter, replace(engine.config, prompt_window=128))
        total = 0.0
        for start in range(0, 256, 64):  # in four parts, to limit memory
            total += target_losses(limited, blocks, ids[num_tokens - local : num_tokens - 192 + start], 64)[0] / 4
        ours.append(total)
        with torch.no_grad():
            logits = engine.base.model(torch.tensor([ids[-local:]])).logits[0, -257:-1].float()
        base.append(float(functional.cross_entropy(logits, torch.tensor(ids[-256:]))))
    seconds = time.perf_counter() - started
    length = f"{num_tokens // 1024}K"
    return [
        Result(f"perplexity at {length}, ours", len(ours), math.exp(sum(ours) / len(ours)), seconds, []),
        Result(f"perplexity at {length}, base, last 2,048", len(base), math.exp(sum(base) / len(base)), 0.0, []),
    ]


def paragraphs(engine: FocusEngine, data: Path, cases: int) -> list[Result]:
    """F1 of XQuAD questions of held-out articles: the paragraph among 16K of distractors, and alone in the prompt."""
    started = time.perf_counter()
    asked = load_questions(data / "qa" / "xquad.en.json")
    held_out = random.Random(0).sample(asked[math.ceil(len(asked) * 0.82) :], cases)
    novel = Novel(engine, data, 16_384)
    ours, alone = [], []
    for case, (context, question, answer) in enumerate(held_out):
        fact = Fact("paragraph", f"\n\n{context}\n\n", (question,), answer)
        memory = novel.planted([fact], random.Random(case))
        ours.append(word_f1(novel.engine.ask(memory, question, max_new_tokens=32).text, answer))
        alone.append(word_f1(base_reply(engine, f"{context}\n\nAnswer in a few words: {question}"), answer))
    seconds = time.perf_counter() - started
    return [
        Result("XQuAD F1, paragraph among 16K of novel", cases, sum(ours) / cases, seconds, []),
        Result("XQuAD F1, base model, paragraph alone", cases, sum(alone) / cases, 0.0, []),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", help="as for focusdoc ask; by default the default model")
    parser.add_argument("--adapter", default="auto")
    parser.add_argument("--output", type=Path, default=Path("heldout.json"))
    parser.add_argument("--only", nargs="*", help="names of tests: numbers, far, rows, noise, pairs, words, ...")
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--quote-tokens", type=int, help="FocusConfig.quote_tokens; 0: from the candidates alone")
    options = parser.parse_args()
    data, cases = options.data, options.cases
    config = FocusConfig(quote_tokens=options.quote_tokens)
    engine = FocusEngine.from_pretrained(options.model, adapter=options.adapter, config=config)
    rows = data / "infinitebench"
    tests: dict[str, Callable[[], Iterable[Result]]] = {
        "numbers": lambda: (needles(engine, data, "number", 16_384, size, cases) for size in (512, 2048)),
        "far": lambda: [needles(engine, data, "number", 131_072, 2048, max(20, cases // 2))],
        "rows": lambda: (
            infinitebench(engine, rows / f"passkey_{size}.jsonl", limit)
            for size, limit in ((8192, 20), (16384, 10), (32768, 6))
        ),
        "noise": lambda: (passkey(sized(engine, 2048), length, 5) for length in (128_000, 400_000)),
        "pairs": lambda: [pairs(sized(engine, 512), cases)],
        "words": lambda: [needles(engine, data, "words", 16_384, 1024, cases)],
        "words-alone": lambda: [words_alone(engine, data, 16_384, 1024, cases)],
        "reconstruction": lambda: [reconstruction(engine, data, cases)],
        "perplexity": lambda: perplexity(engine, data, 16_384) + perplexity(engine, data, 32_768),
        "paragraphs": lambda: paragraphs(engine, data, cases),
    }
    results: list[Result] = []
    for name in options.only or tests:
        for result in tests[name]():
            results.append(result)
            print(f"| {result.test} | {result.cases} | {result.score:.3f} | {result.seconds:.0f} s |", flush=True)
            if result.looked is not None:
                print(f"    chunk of the answer with the most attention: {result.looked:.3f}")
            for gold, found in result.misses:
                print(f"    expected {gold!r}, got {found!r}")
            options.output.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")


if __name__ == "__main__":
    main()
