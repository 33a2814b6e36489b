"""Trains the LoRA weights with which a reader drafts short answers and judges them. A stopped run resumes.

    python scripts/train_reader.py --data ../shared/data --output runs/reader

Trained on: the first 60% of XQuAD's questions, Natural Questions from 26 to 79%, and our own questions about novels and
about invented texts (scripts/reading/). Held out for tuning: XQuAD from 62 to 80%, the first quarter of Natural
Questions, all seven novels with questions. Held out for tests: the rest.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from focusdoc.config import GenerationConfig
from focusdoc.modeling.base import BaseModel, load_base
from focusdoc.modeling.catalogue import DEFAULT_READER, known_model
from focusdoc.modeling.lora import Lora, load_lora, new_lora, save_lora
from focusdoc.readers.drafts import DRAFT_TOKENS
from focusdoc.readers.local import LocalReader
from focusdoc.readers.reader import collect, reading_prompt
from focusdoc.readers.training import Branch, Exercise, Losses, Question, branches_of, losses, pack
from focusdoc.storage import atomic_write
from focusdoc.training.weights import has_checkpoint, load_checkpoint, save_checkpoint

#: Shares of the questions, in the files' order.
XQUAD_TRAINED, XQUAD_WATCHED = (0.0, 0.6), (0.62, 0.8)
NQ_TRAINED, NQ_WATCHED = (0.26, 0.79), (0.0, 0.25)
#: Our questions: about excerpts of novels, and about invented texts.
READING = Path(__file__).with_name("reading")
NOVELS, INVENTED = ("novels", "novels_hard"), ("invented", "expository")
#: The linear layers that get LoRA.
LAYERS = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
#: Passages of Natural Questions in one prompt, and how many such prompts there are.
TOGETHER, NUM_TOGETHER = 3, 200
#: Exercises per step; the share of the steps before the learning rate falls; steps with a rising one.
PER_STEP, CONSTANT, WARMUP = 4, 0.6, 6
#: Ends an answer that was cut, in the file of own words.
CUT = " ..."
#: Steps between checkpoints, and between measurements on watched questions.
SAVED, WATCHED = 10, 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", default=DEFAULT_READER)
    parser.add_argument("--start-from", type=Path, metavar="FOLDER", help="LoRA weights; by default new ones")
    parser.add_argument("--own", nargs="+", default=[*NOVELS, *INVENTED], help="the files of our questions")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    loaded = load_base(args.model, few_rows=True)
    name = args.model if known_model(args.model) is None else loaded.name  # by which it can be opened
    base = BaseModel(loaded.model, loaded.tokenizer, name)  # few rows are for decoding, and have no gradients
    base.model.requires_grad_(False)
    own = [each for name in args.own for each in (novels if name in NOVELS else invented)(args.data, name)]
    exercises: list[Exercise] = [*xquad(args.data, XQUAD_TRAINED), *natural_questions(args.data)]
    exercises += with_own_words(LocalReader(loaded), own, args.output / "own_words.json")
    steps = round(args.epochs * len(exercises) / PER_STEP)
    if args.start_from is None:
        lora = new_lora(base.name, base.model, LAYERS, args.rank, scale=2.0)
    else:
        lora = in_float32(load_lora(args.start_from))
    tuned = base.with_lora(lora)
    trained = {name: each for name, each in tuned.decoding_model.named_parameters() if each.requires_grad}
    weights = nn.ParameterDict({key_of(name): each for name, each in trained.items()})
    optimizer = torch.optim.AdamW(weights.values(), lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    identity = {"model": base.name, "rank": lora.rank, "seed": args.seed, "exercises": len(exercises), "steps": steps}
    checkpoint = args.output / "checkpoint"
    first = load_checkpoint(checkpoint, weights, optimizer, identity) if has_checkpoint(checkpoint) else 0
    watched = list(watched_questions(args.data))
    print(f"{len(exercises)} exercises, {steps} steps, {sum(each.numel() for each in weights.values()):,} weights")
    for step in range(first, steps):
        if step % WATCHED == 0:
            print(json.dumps({"step": step, "watched": watch(tuned, watched)}), flush=True)
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * schedule(step, steps)
        rows, found = 0, []
        for number in range(step * PER_STEP, (step + 1) * PER_STEP):
            epoch, place = divmod(number, len(exercises))
            order = random.Random(f"{args.seed} {epoch}").sample(range(len(exercises)), len(exercises))
            branches = branches_of(exercises[order[place]], random.Random(f"{args.seed} {number}"))
            packed = pack(base.tokenizer, end_token(base), branches)
            result = losses(tuned, packed)
            torch.autograd.backward(result.total / PER_STEP)
            rows += packed.token_ids.numel()
            found.append(result)
        norm = nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        line = {"step": step + 1, "of": steps, "norm": float(norm), **summary(found), "rows": rows}
        print(json.dumps(rounded({**line, "seconds": time.perf_counter() - start})), flush=True)
        if (step + 1) % SAVED == 0 or step + 1 == steps:
            save_checkpoint(checkpoint, weights, optimizer, step + 1, identity)
            save_lora(lora_of(base, weights, lora), args.output / "lora")
    print(json.dumps({"step": steps, "watched": watch(tuned, watched)}))


def schedule(step: int, steps: int) -> float:
    """The factor of the learning rate."""
    return min(1.0, (step + 1) / WARMUP, max(0.05, (1 - step / steps) / (1 - CONSTANT)))


def end_token(base: BaseModel) -> int:
    """The token that ends a message in the model's chat format."""
    found: int = base.tokenizer.eos_token_id  # type: ignore[union-attr]
    return found


def in_float32(lora: Lora) -> Lora:
    """Weights to train: small steps would be lost in bfloat16."""
    return replace(lora, weights={name: (a.float(), b.float()) for name, (a, b) in lora.weights.items()})


def key_of(name: str) -> str:
    """A weight's name as a key of a ParameterDict, which may not have dots."""
    return name.replace(".", "/")


def lora_of(base: BaseModel, weights: nn.ParameterDict, lora: Lora) -> Lora:
    return Lora(
        base.name,
        lora.scale,
        {name: (weights[key_of(f"{name}.a")].data, weights[key_of(f"{name}.b")].data) for name in lora.weights},
    )


def summary(found: Sequence[Losses]) -> dict[str, float]:
    """The means of a step."""
    kinds = "answers", "judgements", "exact_answers", "exact_judgements"
    return {kind: float(torch.cat([getattr(each, kind).detach() for each in found]).float().mean()) for kind in kinds}


def rounded(line: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in line.items()}


@torch.no_grad()
def watch(tuned: BaseModel, watched: Sequence[tuple[str, Exercise]]) -> dict[str, tuple[float, float, int]]:
    """Of each kind of watched questions: the share answered word for word, nats per token, and how many there are."""
    found: dict[str, tuple[list[bool], list[float]]] = {}
    for kind, exercise in watched:
        asked = [
            Branch(reading_prompt(each.text, exercise.passages), each.answer, True, True) for each in exercise.questions
        ]
        result = losses(tuned, pack(tuned.tokenizer, end_token(tuned), asked))
        exact, nats = found.setdefault(kind, ([], []))
        exact += result.exact_answers.tolist()
        nats += result.answers.tolist()
    return {kind: (round(sum(e) / len(e), 3), round(sum(n) / len(n), 3), len(e)) for kind, (e, n) in found.items()}


def watched_questions(data: Path) -> Iterator[tuple[str, Exercise]]:
    for exercise in list(xquad(data, XQUAD_WATCHED, beside=False))[::3]:
        yield "xquad", exercise
    for question, text, answer in single_answers(data, NQ_WATCHED)[:60]:
        yield "nq", Exercise((text,), (Question(question, answer),))


def xquad(data: Path, share: tuple[float, float], *, beside: bool = True) -> Iterator[Exercise]:
    """A paragraph and its questions, three in ten with another paragraph of the article; else questions about that."""
    articles = json.loads((data / "qa" / "xquad.en.json").read_text(encoding="utf-8"))["data"]
    total = sum(len(paragraph["qas"]) for article in articles for paragraph in article["paragraphs"])
    rng, seen = random.Random("xquad"), 0
    for article in articles:
        paragraphs = article["paragraphs"]
        inside = []
        for paragraph in paragraphs:
            first, seen = seen, seen + len(paragraph["qas"])
            if first >= share[0] * total and seen <= share[1] * total:
                inside.append(paragraph)
        for paragraph, other in zip(inside, inside[1:] + inside[:1], strict=True):
            questions = tuple(Question(each["question"], each["answers"][0]["text"]) for each in paragraph["qas"])
            if beside and len(inside) > 1 and rng.random() < 0.3:
                yield Exercise(shuffled(rng, paragraph["context"], other["context"]), questions)
            else:
                others = tuple(each["question"] for each in other["qas"]) if beside and len(inside) > 1 else ()
                yield Exercise((paragraph["context"],), questions, others)


def natural_questions(data: Path) -> Iterator[Exercise]:
    """Three passages with a question about each, and a question about a fourth."""
    rows = single_answers(data, NQ_TRAINED)
    random.Random("nq").shuffle(rows)
    for start in range(0, min(len(rows) - TOGETHER, TOGETHER * NUM_TOGETHER), TOGETHER):
        together = rows[start : start + TOGETHER]
        passages = tuple(text for _, text, _ in together)
        questions = tuple(Question(question, answer) for question, _, answer in together)
        yield Exercise(passages, questions, (rows[start + TOGETHER][0],))


def single_answers(data: Path, share: tuple[float, float]) -> list[tuple[str, str, str]]:
    """(question, passage, answer), where there is one short answer and it stands in the passage."""
    with gzip.open(data / "qa" / "nq-open-oracle.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    found = []
    for row in rows[round(share[0] * len(rows)) : round(share[1] * len(rows))]:
        text, answers = row["ctxs"][0]["text"], row["nq_annotated_gold"]["short_answers"]
        answers = [each for each in answers if each in text] or [each for each in row["answers"] if each in text]
        if 0 < len(answers) <= 2 and 120 < len(text) < 1200 and "<" not in text:
            found.append((row["question"], text, answers[0]))
    return found


#: An exercise, and a request whose answer takes sentences; None for none.
Own = tuple[Exercise, str | None]


def with_own_words(reader: LocalReader, own: Sequence[Own], file: Path) -> list[Exercise]:
    """The exercises, with what the untrained reader writes to their requests, so that it still answers them at length.

    Args:
        file: keeps the answers.
    """
    known: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    settings = GenerationConfig(max_new_tokens=DRAFT_TOKENS + 1)
    found = []
    for exercise, request in own:
        if request is not None:
            if request not in known:
                known[request], written = collect(reader.write(reading_prompt(request, exercise.passages), settings))
                known[request] += "" if written.finish_reason == "stop" else CUT
                file.parent.mkdir(parents=True, exist_ok=True)
                atomic_write(file, json.dumps(known, indent=1).encode())
                print(f"own words for {len(known)} requests", end="\r", flush=True)
            text = known[request]
            asked = Question(request, text.removesuffix(CUT), is_cut=text.endswith(CUT))
            exercise = replace(exercise, questions=(*exercise.questions, asked))
        found.append(exercise)
    return found


def novels(data: Path, file: str) -> Iterator[Own]:
    """Excerpts of novels and our questions, one in five with other paragraphs of the novel as a second passage."""
    rng = random.Random(file)
    for row in own_rows(file):
        text = book(data, row["book"])
        passages: tuple[str, ...] = (text[row["start"] : row["end"]],)
        if rng.random() < 0.2:
            passages = shuffled(rng, *passages, "\n\n".join(paragraph_of(rng, text) for _ in range(2)))
        yield Exercise(passages, questions_of(row)), row.get("request")


def invented(data: Path, file: str) -> Iterator[Own]:
    """Invented texts and our questions: alone, between paragraphs of novels, or beside another such text."""
    rng, rows = random.Random(file), list(own_rows(file))
    books = sorted({row["book"] for row in own_rows(NOVELS[0])})
    for row, other in zip(rows, rows[7:] + rows[:7], strict=True):
        kind, text = rng.random(), row["passage"]
        unanswered = tuple(each["question"] for each in other["questions"])
        if kind < 0.35:
            exercise = Exercise((text,), questions_of(row), unanswered)
        elif kind < 0.75:
            parts = [
                paragraph_of(rng, book(data, rng.choice(books))),
                text,
                paragraph_of(rng, book(data, rng.choice(books))),
            ]
            if rng.random() < 0.5:
                parts.pop(rng.choice([0, 2]))
            exercise = Exercise(("\n\n".join(parts),), questions_of(row), unanswered)
        else:
            exercise = Exercise(shuffled(rng, text, other["passage"]), questions_of(row))
        yield exercise, row.get("request")


def own_rows(name: str) -> Iterator[dict[str, Any]]:
    with (READING / f"{name}.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def questions_of(row: dict[str, Any]) -> tuple[Question, ...]:
    return tuple(Question(each["question"], each["answer"], each.get("wrong")) for each in row["questions"])


_books: dict[str, str] = {}


def book(data: Path, name: str) -> str:
    if name not in _books:
        _books[name] = (data / "books" / f"{name}.txt").read_text(encoding="utf-8")
    return _books[name]


def paragraph_of(rng: random.Random, text: str) -> str:
    """A random paragraph of 150 to 700 characters."""
    while True:
        start = text.find("\n\n", rng.randrange(len(text)))
        paragraph = text[start : text.find("\n\n", start + 2)].strip()
        if 150 < len(paragraph) < 700:
            return paragraph


def shuffled(rng: random.Random, *passages: str) -> tuple[str, ...]:
    return tuple(rng.sample(passages, len(passages)))


if __name__ == "__main__":
    main()
