"""Selection of drafts, and detection of questions that the document does not answer.

    python benchmarks/judging.py --data ../shared/data --reader NAME --output held_out.json
    python benchmarks/judging.py --data ../shared/data --reader NAME --output tuning.json --part tuning --learn

The document is every second paragraph of XQuAD, so that it answers about half of the questions; equally many of both
kinds are asked. For tuning, questions of Natural Questions, of the first half of the novels and about directors' births
(benchmarks/two_hop.py) are added, to fit the selection. `--learn` fits the weights of focusdoc/readers/confidence.py to
the rows, with 10-fold cross-validation.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import two_hop
from finding import NOVELS_TUNING
from torch import Tensor
from torch.nn import functional

from focusdoc import Document, FocusEngine, GenerationConfig
from focusdoc.decoding.prompt import Request
from focusdoc.evaluation.natural import Choice, load_items
from focusdoc.evaluation.natural_scores import PATTERN_TASK, f1, interval, right
from focusdoc.memory.chunk_memory import DocumentMemory
from focusdoc.readers.confidence import MIN_CONFIDENCE, SIGNALS, confidence_of, rank_score_of, rank_signals
from focusdoc.readers.drafts import draft_replies, normalized
from focusdoc.readers.passages import choose_passages
from focusdoc.readers.reading import BUDGET
from focusdoc.readers.replies import Session

#: Shares of XQuAD's questions: the reader was trained on the first 60%, the adapter on the first 80%.
SHARES = {"tuning": (0.62, 0.8), "held out": (0.82, 1.0)}
#: Further questions for tuning: (file, in qa/ of the data if it is no whole path, share, questions).
BESIDE = (
    ("nq-open-oracle.jsonl.gz", (0.0, 0.25), 60),
    ("novels.json", (0.0, 0.5), None),
    (NOVELS_TUNING, (0.0, 1.0), 40),
)
#: Questions about births.
BIRTHS = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with qa/ and books/")
    parser.add_argument("--reader", help="as for focusdoc ask; one in this process")
    parser.add_argument("--part", choices=list(SHARES), default="held out")
    parser.add_argument("--cases", type=int, default=50, help="of each kind")
    parser.add_argument("--store", default="auto")
    parser.add_argument("--output", type=Path, required=True, help="rows; existing ones are kept")
    parser.add_argument("--learn", action="store_true")
    args = parser.parse_args()
    rows = json.loads(args.output.read_text()) if args.output.exists() else []
    asked = list(questions(args.data, args.part, args.cases))
    if len(rows) < len(asked):
        engine = FocusEngine.from_pretrained(reader=args.reader, store=args.store)
        known: tuple[str, DocumentMemory] | None = None
        for text, row in asked[len(rows) :]:
            if known is None or known[0] != text:
                known = text, engine.read(Document.from_text(text))
            rows.append(row | {"drafts": drafted(engine, known[1], row)})
            args.output.write_text(json.dumps(rows, indent=1) + "\n")
            print(f"{len(rows)} of {len(asked)}", end="\r", flush=True)
    report(rows)
    if args.learn:
        learn(rows)


def questions(data: Path, part: str, cases: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Documents, and questions that they answer or do not answer."""
    text, asked = divided(data / "qa" / "xquad.en.json", *SHARES[part], cases)
    for row in asked:
        yield text, row
    for file, share, limit in BESIDE if part == "tuning" else ():
        for item in load_items(data / "qa" / file, Choice(share=share, limit=limit), documents=data / "books"):
            question, pattern = item.after.strip(), item.task == PATTERN_TASK
            row = {"file": Path(file).name, "told": True, "question": question, "answers": item.answers}
            yield item.context, row | {"pattern": pattern}
    if part == "tuning":
        text, films = two_hop.questions(data / "qa" / "2wikimultihopqa_corpus.json", part)
        for film in films[:BIRTHS]:
            question = f"When was {film['director']} born?"
            yield (
                text,
                {"file": "births", "told": True, "question": question, "answers": [film["born"]], "pattern": False},
            )


def divided(file: Path, first: float, last: float, cases: int) -> tuple[str, list[dict[str, Any]]]:
    """The document, and alternately questions that it answers and does not answer."""
    paragraphs = [
        paragraph
        for article in json.loads(file.read_text(encoding="utf-8"))["data"]
        for paragraph in article["paragraphs"]
    ]
    rows = [
        {
            "file": file.name,
            "told": number % 2 == 0,
            "question": each["question"],
            "answers": [answer["text"] for answer in each["answers"]],
            "pattern": False,
        }
        for number, paragraph in enumerate(paragraphs)
        for each in paragraph["qas"]
    ]
    share = rows[round(first * len(rows)) : round(last * len(rows))]
    answerable, unanswerable = ([row for row in share if row["told"] is kind] for kind in (True, False))
    count = min(cases, len(answerable), len(unanswerable))
    samples = [random.Random(0).sample(kind, count) for kind in (answerable, unanswerable)]
    text = "\n\n".join(paragraph["context"] for paragraph in paragraphs[::2])
    return text, [row for pair in zip(*samples, strict=True) for row in pair]


def drafted(engine: FocusEngine, memory: DocumentMemory, row: dict[str, Any]) -> list[dict[str, Any]]:
    """The drafts of a question with their signals and scores, 0 to 1."""
    assert engine.reader is not None, "name a reader"
    settings = GenerationConfig(max_new_tokens=48)
    session = Session(engine.reader, Request([memory], [], [], settings, engine.base.tokenizer), (), BUDGET)
    found = engine.find(memory, row["question"])
    replies = draft_replies(session, row["question"], found, choose_passages(found, session.fits))
    return [
        {
            "text": each.text,
            "right": score(each.text, row),
            "signals": each.signals,
            "passages": len(each.passages),
        }
        for each in replies
    ]


def score(text: str, row: dict[str, Any]) -> float:
    if not row["told"]:
        return 0.0
    return right(text, row["answers"]) if row["pattern"] else f1(text, row["answers"])


def best(row: dict[str, Any]) -> dict[str, Any]:
    """The draft that is selected."""
    return chosen(row["drafts"], [rank_score_of(draft["signals"]) for draft in row["drafts"]])


def chosen(drafts: list[dict[str, Any]], scores: Sequence[float]) -> dict[str, Any]:
    """The draft with the highest score, or one of fewer passages with the same words, as `best_draft` chooses."""
    ranked = sorted(zip(drafts, scores, strict=True), key=lambda pair: -pair[1])
    text = normalized(ranked[0][0]["text"])
    return min((draft for draft, _ in ranked if normalized(draft["text"]) == text), key=lambda draft: draft["passages"])


def report(rows: list[dict[str, Any]]) -> None:
    for name, kind in (("left out", False), ("in the document", True)):
        rejected = [float(confidence_of(best(row)["signals"]) < MIN_CONFIDENCE) for row in rows if row["told"] is kind]
        low, high = interval(rejected)
        share = sum(rejected) / len(rejected)
        print(f"{name}: judged unanswerable {share:.0%} ({low:.0%} to {high:.0%}) of {len(rejected)}")
    for file in dict.fromkeys(row["file"] for row in rows):
        answerable = [row for row in rows if row["told"] and row["file"] == file]
        means = [
            sum(values) / len(answerable)
            for values in (
                [best(row)["right"] for row in answerable],
                [row["drafts"][0]["right"] for row in answerable],
                [max(draft["right"] for draft in row["drafts"]) for row in answerable],
                [len(row["drafts"]) for row in answerable],
            )
        ]
        print("{}: selected {:.3f}, first {:.3f}, best possible {:.3f}; {:.1f} drafts".format(file, *means))


def learn(rows: list[dict[str, Any]]) -> None:
    tenths = torch.arange(len(rows)) // 2 % 10
    answerable = [row for row in rows if row["told"]]
    print("RANK_WEIGHTS =", rounded(fit_selection(answerable)))
    apart = [
        fit_selection([row for row, each in zip(rows, tenths.tolist(), strict=True) if each != tenth and row["told"]])
        for tenth in range(10)
    ]
    selected = [selected_draft(row, apart[tenth]) for row, tenth in zip(rows, tenths.tolist(), strict=True)]
    for file in dict.fromkeys(row["file"] for row in answerable):
        right = [
            draft["right"] for row, draft in zip(rows, selected, strict=True) if row["told"] and row["file"] == file
        ]
        print(f"cross-validated, {file}: selected {sum(right) / len(right):.3f}")
    signals = torch.tensor([draft["signals"] for draft in selected])
    labels = torch.tensor([float(row["told"]) for row in rows])
    weights, bias = fit_confidence(signals, labels)
    print("WEIGHTS, BIAS =", rounded(weights), ",", round(float(bias), 3))
    judged = torch.zeros(len(rows))
    for tenth in range(10):
        weights, bias = fit_confidence(signals[tenths != tenth], labels[tenths != tenth])
        judged[tenths == tenth] = signals[tenths == tenth] @ weights + bias
    for name, kind in (("left out", 0), ("in the document", 1)):
        rejected = (judged[labels == kind] < 0).float().mean()
        print(f"cross-validated, {name}: judged unanswerable {float(rejected):.0%}")


def rounded(weights: Tensor) -> tuple[float, ...]:
    return tuple(round(float(weight), 3) for weight in weights)


def selected_draft(row: dict[str, Any], weights: Tensor) -> dict[str, Any]:
    return chosen(row["drafts"], (signals_of(row) @ weights).tolist())


def signals_of(row: dict[str, Any]) -> Tensor:
    return torch.tensor([rank_signals(draft["signals"]) for draft in row["drafts"]])


def fit_selection(rows: Sequence[dict[str, Any]], decay: float = 0.01) -> Tensor:
    """Weights that maximize the probability of the right drafts; all files have the same weight."""
    weights = torch.zeros(len(SIGNALS), requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.05)
    counts = {file: sum(row["file"] == file for row in rows) for file in {row["file"] for row in rows}}
    for _ in range(400):
        loss = decay * weights.square().sum()
        for row in rows:
            right = torch.tensor([draft["right"] for draft in row["drafts"]])
            if 0 < right.sum() < len(right):
                probable = (signals_of(row) @ weights).softmax(dim=0)
                loss = loss - (probable @ right) / counts[row["file"]]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weights.detach()


def fit_confidence(signals: Tensor, labels: Tensor, decay: float = 0.02) -> tuple[Tensor, Tensor]:
    """Weights and bias of a logistic regression on standardized signals; both classes have the same weight."""
    mean, deviation = signals.mean(dim=0), signals.std(dim=0).clamp_min(1e-6)
    weights, bias = torch.zeros(signals.shape[1], requires_grad=True), torch.zeros((), requires_grad=True)
    share = labels / labels.mean() / 2 + (1 - labels) / (1 - labels.mean()) / 2
    optimizer = torch.optim.Adam([weights, bias], lr=0.05)
    for _ in range(800):
        logits = (signals - mean) / deviation @ weights + bias
        loss = functional.binary_cross_entropy_with_logits(logits, labels, share) + decay * weights.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scaled = (weights / deviation).detach()
    return scaled, bias.detach() - scaled @ mean


if __name__ == "__main__":
    main()
