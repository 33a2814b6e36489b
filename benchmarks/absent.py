"""How often it is said that the document does not tell: of questions whose paragraph was left out, and of others.

    python benchmarks/absent.py --data xquad.en.json --reader NAME --questions 0.82:1 --output absent.json
    python benchmarks/absent.py ... --questions 0:0.8 --output tuning.json --learn

Every second paragraph of a SQuAD-like file makes the document, so that for each question left out there is one of the
same articles that it tells. As many of both are asked. `--learn` fits the weights of focusdoc/readers/confidence.py to
the rows, and says how well weights learnt on nine tenths judge the last tenth.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from focusdoc import Document, FocusEngine, GenerationConfig
from focusdoc.evaluation.natural_scores import f1, interval
from focusdoc.memory.chunk_memory import DocumentMemory
from focusdoc.readers.reading import BUDGET
from focusdoc.readers.confidence import FOUND, confidence_of, signals_of
from focusdoc.readers.local import LocalReader
from focusdoc.readers.passages import choose_passages, in_order, text_of
from focusdoc.readers.reader import judging_prompt, reading_prompt, whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a file in the form of SQuAD")
    parser.add_argument("--reader", help="as for focusdoc ask")
    parser.add_argument("--questions", default="0:1", metavar="FROM:TO", help="the share of the file's questions")
    parser.add_argument("--cases", type=int, default=100, help="of each kind")
    parser.add_argument("--store", default="auto")
    parser.add_argument("--output", type=Path, required=True, help="rows; those that are there are not asked again")
    parser.add_argument("--learn", action="store_true")
    given = parser.parse_args()
    rows = json.loads(given.output.read_text()) if given.output.exists() else []
    text, questions = divided(given.data, *map(float, given.questions.split(":")), given.cases)
    if len(rows) < len(questions):
        engine = FocusEngine.from_pretrained(reader=given.reader, store=given.store)
        memory = engine.read(Document.from_text(text, {"name": "every second paragraph"}))
        for row in questions[len(rows) :]:
            rows.append(row | asked(engine, memory, row))
            given.output.write_text(json.dumps(rows, indent=1) + "\n")
            print(f"{len(rows)} of {len(questions)}", end="\r", flush=True)
    report(rows)
    if given.learn:
        learn(rows)


def divided(file: Path, first: float, last: float, cases: int) -> tuple[str, list[dict[str, Any]]]:
    """The document, and questions that it tells and does not tell, in turn."""
    paragraphs = [
        paragraph
        for article in json.loads(file.read_text(encoding="utf-8"))["data"]
        for paragraph in article["paragraphs"]
    ]
    rows = [
        {
            "told": number % 2 == 0,
            "question": each["question"],
            "answers": [answer["text"] for answer in each["answers"]],
        }
        for number, paragraph in enumerate(paragraphs)
        for each in paragraph["qas"]
    ]
    share = rows[round(first * len(rows)) : round(last * len(rows))]
    told, untold = ([row for row in share if row["told"] is kind] for kind in (True, False))
    count = min(cases, len(told), len(untold))
    drawn = [random.Random(0).sample(kind, count) for kind in (told, untold)]
    text = "\n\n".join(paragraph["context"] for paragraph in paragraphs[::2])
    return text, [row for pair in zip(*drawn, strict=True) for row in pair]


def asked(engine: FocusEngine, memory: DocumentMemory, row: dict[str, Any]) -> dict[str, Any]:
    """The answer to a question as `focusdoc.readers.reading` makes it, and the signals of its confidence."""
    reader, question = engine.reader, row["question"]
    assert isinstance(reader, LocalReader), "the likelihoods of a reader in this process are needed"
    found = engine.find(memory, question)
    passages = choose_passages(found, lambda some: sum(reader.count(text_of([memory], one)) for one in some) <= BUDGET)
    texts = [text_of([memory], each) for each in in_order(passages)]
    text, written = whole(reader.write(reading_prompt(question, texts), GenerationConfig(max_new_tokens=32)))
    agreement = reader.agrees(judging_prompt(question, texts, text))
    signals = signals_of(found, written.log_likelihood, agreement)
    return {"answer": text, "f1": f1(text, row["answers"]), "signals": signals}


def report(rows: list[dict[str, Any]]) -> None:
    for name, kind in (("left out", False), ("in the document", True)):
        said = [float(confidence_of(row["signals"]) < FOUND) for row in rows if row["told"] is kind]
        low, high = interval(said)
        print(f"{name}: said not to be told {sum(said) / len(said):.0%} ({low:.0%} to {high:.0%}) of {len(said)}")
    told = [row["f1"] for row in rows if row["told"]]
    print(f"F1 of those in the document {sum(told) / len(told):.3f}")


def learn(rows: list[dict[str, Any]]) -> None:
    signals = torch.tensor([row["signals"] for row in rows])
    told = torch.tensor([float(row["told"]) for row in rows])
    weights, bias = fitted(signals, told)
    print("WEIGHTS, BIAS =", tuple(round(float(w), 3) for w in weights), ",", round(float(bias), 3))
    judged = torch.zeros(len(rows))
    tenths = torch.arange(len(rows)) // 2 % 10
    for tenth in range(10):
        weights, bias = fitted(signals[tenths != tenth], told[tenths != tenth])
        judged[tenths == tenth] = signals[tenths == tenth] @ weights + bias
    for name, kind in (("left out", 0), ("in the document", 1)):
        print(
            f"learnt on nine tenths, {name}: said not to be told {float((judged[told == kind] < 0).float().mean()):.0%}"
        )


def fitted(signals: Tensor, told: Tensor, decay: float = 0.02) -> tuple[Tensor, Tensor]:
    """Weights and bias of a logistic regression, on signals of mean 0 and variance 1."""
    mean, deviation = signals.mean(dim=0), signals.std(dim=0).clamp_min(1e-6)
    weights, bias = torch.zeros(signals.shape[1], requires_grad=True), torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam([weights, bias], lr=0.05)
    for _ in range(800):
        logits = (signals - mean) / deviation @ weights + bias
        loss = functional.binary_cross_entropy_with_logits(logits, told) + decay * weights.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scaled = (weights / deviation).detach()
    return scaled, bias.detach() - scaled @ mean


if __name__ == "__main__":
    main()
