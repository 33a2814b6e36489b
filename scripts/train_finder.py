"""Trains candidates to find passages: an adapter's, or those of a model that has no adapter. A stopped run resumes.

    python scripts/train_finder.py --data ../shared/data --output runs/finder
    python scripts/train_finder.py --data ../shared/data --output runs/other --model NAME --adapter none

Without an adapter they start from the model's own projections, and become a low-rank adapter that only finds. `--go-on`
starts from the adapter's weights for finding, with other documents or settings.

Documents are made of excerpts of novels with our questions, of our invented texts between paragraphs of novels, of the
first 60% of XQuAD and of Natural Questions from 26 to 79%. Three novels are watched. Held out for tuning: three other
novels, the first half of novels.json, XQuAD from 62 to 80%, the first quarter of Natural Questions. Held out for tests:
the rest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from train_reader import INVENTED, NOVELS, NQ_TRAINED, XQUAD_TRAINED, book, key_of, own_rows, rounded

from focusdoc import Document, FocusConfig, FocusEngine
from focusdoc.decoding.prompt import local_and_prompt, question_prompt
from focusdoc.evaluation.natural import Choice, load_items
from focusdoc.modeling.adapter_files import save_adapter
from focusdoc.readers.finding import places_of
from focusdoc.readers.windows import Windows
from focusdoc.training.finding import FinderWeights, Lesson, loss_of, signals_of
from focusdoc.training.weights import has_checkpoint, load_checkpoint, save_checkpoint

#: Novels with questions to tune on, which no document has.
TUNING = {"24_o_pioneers", "60_the_scarlet_pimpernel", "541_the_age_of_innocence"}
#: Novels to watch the training with.
WATCHED = {"829_gullivers_travels_into_several_remote_nations_of_the_world", "2814_dubliners", "514_little_women"}
#: Where documents come from.
SOURCES = ("novels", "invented", "xquad", "nq")
#: Characters around an excerpt of a novel; invented texts in one document; most questions about such a document.
AROUND, TEXTS, MAX_QUESTIONS = 5000, 40, 120
#: Documents that are open at the same time, questions in one pass, passes in one step.
OPEN, TOGETHER, PASSES = 9, 4, 2
#: Steps with a rising learning rate; share of the steps at which it starts to fall.
WARMUP, CONSTANT = 20, 0.4
#: Learning rate of the heads' and the signals' weights.
FEW_RATE = 0.02
#: Steps between checkpoints; questions of each watched document.
SAVED, NUM_WATCHED = 20, 25

#: A text, and questions with the first and last character of their answers.
Source = tuple[str, list[tuple[str, list[tuple[int, int]]]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", help="a base model; by default the embedded one")
    parser.add_argument("--adapter", default="auto", help="auto, none, or a folder")
    parser.add_argument("--go-on", action="store_true")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=SOURCES)
    parser.add_argument("--around", type=int, default=AROUND, help="characters of a novel around each excerpt")
    parser.add_argument("--open", type=int, default=OPEN, help="documents that are open at the same time")
    parser.add_argument("--steps", type=int, help="fewer steps than all questions take")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    adapter = None if args.adapter == "none" else args.adapter
    config = FocusConfig(memory_dtype="model", allow_untrained=adapter is None)
    engine = FocusEngine.from_pretrained(args.model, adapter=adapter, config=config, store=None)
    if engine.adapter is None or engine.adapter.only_finds:
        parser.error("there is no adapter that answers; start from the model's own projections with --adapter none")
    start = engine.adapter if args.go_on else replace(engine.adapter, finding=None)
    weights = FinderWeights(start, engine.base, args.rank, args.seed)
    made: dict[str, Callable[[], Iterable[Source]]] = {
        "novels": lambda: novels(args.data, args.around),
        "invented": lambda: invented(args.data),
        "xquad": lambda: [xquad(args.data)],
        "nq": lambda: natural_questions(args.data),
    }
    sources = [source for name in SOURCES if name in args.sources for source in made[name]()]
    random.Random(args.seed).shuffle(sources)
    total = min(sum(len(asked) // TOGETHER for _, asked in sources) // PASSES, args.steps or sys.maxsize)
    trained = nn.ParameterDict({key_of(name): each for name, each in weights.named_parameters()})
    few = [weights.log_heads, weights.signals]
    many = [each for each in weights.parameters() if all(each is not other for other in few)]
    rates = args.learning_rate, FEW_RATE
    optimizer = torch.optim.AdamW([{"params": many}, {"params": few}], betas=(0.9, 0.98), weight_decay=0.0)
    identity = {
        "model": engine.base.name,
        "rank": args.rank,
        "learning_rate": args.learning_rate,
        "seed": args.seed,
        "open": args.open,
        "start": None if start.finding is None else start.digest(),
        "sources": hashlib.sha256(json.dumps(sources).encode()).hexdigest(),
        **weights.candidates.identity,
    }
    checkpoint = args.output / "checkpoint"
    done = load_checkpoint(checkpoint, trained, optimizer, identity) if has_checkpoint(checkpoint) else 0
    print(f"{sum(len(asked) for _, asked in sources)} questions about {len(sources)} documents, {total} steps")
    watched = [lesson_of(engine, *source) for source in novels(args.data, args.around, WATCHED)]
    print(json.dumps({"step": done, **watch(engine, weights, watched)}), flush=True)
    step = 0
    for first in range(0, len(sources), args.open):
        group = sources[first : first + args.open]
        # A document's questions in passes, and those of all open documents mixed.
        rng = random.Random(f"{args.seed} {first}")
        passes = [(index, some) for index, (_, asked) in enumerate(group) for some in shuffled(rng, len(asked))]
        rng.shuffle(passes)
        steps = [passes[start : start + PASSES] for start in range(0, len(passes) - PASSES + 1, PASSES)][: total - step]
        if not steps or step + len(steps) <= done:
            step += len(steps)
            continue
        lessons: list[Lesson] = []  # free the memories of the last group first
        lessons += (lesson_of(engine, *source) for source in group)
        for chosen in steps:
            step += 1
            if step <= done:
                continue
            start = time.perf_counter()
            for part, rate in zip(optimizer.param_groups, rates, strict=True):
                part["lr"] = rate * schedule(step, total)
            losses = [train_on(engine, weights, lessons[index], some) for index, some in chosen]
            norm = nn.utils.clip_grad_norm_(many, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            line = {"step": step, "of": total, "loss": sum(losses) / len(losses), "norm": float(norm)}
            print(json.dumps(rounded({**line, "seconds": time.perf_counter() - start})), flush=True)
            if step % SAVED == 0 or step == total:
                save_checkpoint(checkpoint, trained, optimizer, step, identity)
    print(json.dumps({"step": step, **watch(engine, weights, watched)}), flush=True)
    save_adapter(weights.trained_adapter(engine.adapter, engine.chunk_size), args.output / "adapter")


def schedule(step: int, total: int) -> float:
    """The factor of the learning rate."""
    return min(1.0, step / WARMUP, max(0.05, (1 - step / total) / (1 - CONSTANT)))


def shuffled(rng: random.Random, count: int) -> list[list[int]]:
    """Numbers below `count` in random order, as many as one pass has."""
    order = rng.sample(range(count), count)
    return [order[start : start + TOGETHER] for start in range(0, count - TOGETHER + 1, TOGETHER)]


def train_on(engine: FocusEngine, weights: FinderWeights, lesson: Lesson, asked: Sequence[int]) -> float:
    """Add the gradient of a pass; return its loss in nats."""
    layers = weights.candidates.layers(engine.base.device, engine.base.dtype)
    asked = [index for index in asked if index < len(lesson.questions)]
    if not asked:
        return 0.0
    found = signals_of(engine.base, engine.kernel, weights, layers, lesson, asked)
    losses = [loss_of(own, lesson.holds[index], weights.signals) for index, own in zip(asked, found, strict=True)]
    loss = torch.stack(losses).mean()
    torch.autograd.backward(loss / PASSES)
    return loss.item()


@torch.no_grad()
def watch(engine: FocusEngine, weights: FinderWeights, lessons: Sequence[Lesson]) -> dict[str, float]:
    """The loss, and how often a window with the answer is the best, or among the best eight (which may overlap)."""
    layers = weights.candidates.layers(engine.base.device, engine.base.dtype)
    losses, ranks = [], []
    for lesson in lessons:
        for index in range(0, len(lesson.questions), max(1, len(lesson.questions) // NUM_WATCHED)):
            (own,) = signals_of(engine.base, engine.kernel, weights, layers, lesson, [index])
            losses.append(float(loss_of(own, lesson.holds[index], weights.signals)))
            order = (own @ weights.signals).argsort(descending=True).cpu()
            ranks.append(int(lesson.holds[index][order].nonzero()[0]))
    shares = {f"among {most}": sum(rank < most for rank in ranks) / len(ranks) for most in (1, 8)}
    return rounded({"watched loss": sum(losses) / len(losses), **shares})


def lesson_of(engine: FocusEngine, text: str, asked: Sequence[tuple[str, list[tuple[int, int]]]]) -> Lesson:
    """Read a document; questions whose answer no window has whole are left out."""
    memory, windows = engine.read(Document.from_text(text), progress=lambda done, total: None), Windows(text)
    places = places_of([memory], [windows])
    prompts: list[list[int]] = []
    words: list[Tensor] = []
    holding: list[Tensor] = []
    for question, answers in asked:
        holds = torch.tensor([any(a <= first and last <= b for first, last in answers) for a, b in windows.spans])
        if holds.any():
            ids = question_prompt(engine.base.tokenizer, question)
            prompts.append(local_and_prompt(engine.base, engine.config, ids)[1])
            own = torch.from_numpy(windows.matches(question))
            words.append(own / own.max().clamp_min(1e-30))
            holding.append(holds)
    return Lesson(memory, places.tokens, places.chunks, prompts, words, holding)


def novels(data: Path, around: int, watched: set[str] | None = None) -> Iterator[Source]:
    """For each novel, its excerpts with questions and text around them; of the `watched` ones, or of all others."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in own_rows(NOVELS[1]):  # its questions make sense without their excerpt
        rows.setdefault(row["book"], []).append(row)
    for name in sorted(rows):
        if name in TUNING or (name in WATCHED) != (watched is not None):
            continue
        text, parts = book(data, name), list[tuple[int, int]]()
        for row in sorted(rows[name], key=lambda row: int(row["start"])):
            before = text.rfind("\n\n", 0, max(0, row["start"] - around))
            start = before + 2 if before >= 0 else 0
            end = text.find("\n\n", row["end"] + around)
            if parts and start <= parts[-1][1]:
                start = parts.pop()[0]
            parts.append((start, len(text) if end < 0 else end))
        asked, document = list[Any](), ""
        for start, end in parts:
            for row in rows[name]:
                if start <= row["start"] < end:
                    excerpt, at = text[row["start"] : row["end"]], len(document) + row["start"] - start
                    asked += located(row["questions"], excerpt, at)
            document += text[start:end] + "\n\n"
        yield document, asked


def invented(data: Path) -> Iterator[Source]:
    """Our invented texts, many of them between the paragraphs of a novel."""
    rng = random.Random("invented")
    rows = [row for name in INVENTED for row in own_rows(name)]
    rng.shuffle(rows)
    books = sorted({row["book"] for row in own_rows(NOVELS[1])} - TUNING - WATCHED)
    for first in range(0, len(rows) - TEXTS + 1, TEXTS):
        text = book(data, rng.choice(books))
        start = rng.randrange(max(1, len(text) - 60_000))
        paragraphs = text[start : start + 60_000].split("\n\n")[1:-1]
        slots = set(rng.sample(range(len(paragraphs)), min(TEXTS, len(paragraphs))))
        texts, asked, document = iter(rows[first : first + TEXTS]), list[Any](), ""
        for slot, paragraph in enumerate(paragraphs):
            if slot in slots:
                row = next(texts)
                asked += located(row["questions"], row["passage"], len(document))
                document += row["passage"] + "\n\n"
            document += paragraph + "\n\n"
        yield document, rng.sample(asked, min(len(asked), MAX_QUESTIONS))


def xquad(data: Path) -> Source:
    """The first paragraphs of XQuAD."""
    articles = json.loads((data / "qa" / "xquad.en.json").read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    total, document, asked = sum(len(each["qas"]) for each in paragraphs), "", list[Any]()
    for paragraph in paragraphs:
        if len(asked) + len(paragraph["qas"]) > XQUAD_TRAINED[1] * total:
            break
        for row in paragraph["qas"]:
            start = len(document) + row["answers"][0]["answer_start"]
            asked.append((row["question"], [(start, start + len(row["answers"][0]["text"]))]))
        document += paragraph["context"] + "\n\n"
    return document, asked


def natural_questions(data: Path) -> Iterator[Source]:
    """Three collections of 200 passages of Natural Questions."""
    first, last = NQ_TRAINED
    for number in range(3):
        share = first + number * (last - first) / 3, first + (number + 1) * (last - first) / 3
        choice = Choice(share=share, pool=200, limit=200, seed=number)
        items = load_items(data / "qa" / "nq-open-oracle.jsonl.gz", choice)
        yield items[0].context, [(item.after.strip(), list(item.places)) for item in items]


def located(questions: Sequence[dict[str, Any]], text: str, start: int) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Questions with the place of their answers in a text that begins at `start` in the document."""
    for each in questions:
        if found := re.search(r"\s+".join(map(re.escape, each["answer"].split())), text):
            yield each["question"], [(start + found.start(), start + found.end())]


if __name__ == "__main__":
    main()
