"""The recipe of the adapter shipped for the default model, for any other model too. A stopped run resumes.

    python scripts/train_default_adapter.py --data ../shared/data --output runs/default
    python scripts/train_default_adapter.py --data ../shared/data --output runs/half \
      --model qwen2.5-coder-0.5b-instruct --rank 64

`--data` has books/*.txt, and in qa/ xquad.en.json, nq-open-oracle.jsonl.gz and 2wikimultihopqa_corpus.json; the
held-out data below is never trained on.
"""

from __future__ import annotations

import argparse
import gzip
import json
import signal
import sys
from pathlib import Path

from encyclopedia_questions import encyclopedia_questions
from rich.console import Console

from focusdoc.modeling.base import load_base
from focusdoc.training.data import SampleMaker
from focusdoc.training.processes import Processes, Runtime, launch, under_launcher
from focusdoc.training.settings import SampleShape, TrainingConfig, parse_mix
from focusdoc.training.sources import load_questions
from focusdoc.training.trainer import Trainer

HELD_OUT_BOOKS = (
    "105_persuasion",
    "209_the_turn_of_the_screw",
    "2775_the_good_soldier",
    "36_the_war_of_the_worlds",
    "550_silas_marner",
    "62_a_princess_of_mars",
    "768_wuthering_heights",
)
#: The first part of the question files is trained on; the rest is held out.
TRAINED_SHARE = 0.8
#: XQuAD's questions are few and the hardest, so each is repeated this often.
SQUAD_WEIGHT = 3
MIX = {
    "number": 0.16,
    "passkey": 0.02,
    "pair": 0.20,
    "words": 0.36,
    "files": 0.09,
    "continuation": 0.13,
    "reconstruction": 0.04,
}


def questions(folder: Path) -> list[tuple[str, str, str]]:
    """(context, question, answer) triples to train on: human questions, and generated ones (encyclopedia)."""
    squad = load_questions(folder / "xquad.en.json")
    found = SQUAD_WEIGHT * squad[: int(len(squad) * TRAINED_SHARE)]
    generated = encyclopedia_questions(folder / "2wikimultihopqa_corpus.json")
    found += generated[: int(len(generated) * TRAINED_SHARE)]
    with gzip.open(folder / "nq-open-oracle.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    for row in rows[: int(len(rows) * TRAINED_SHARE)]:
        passage = row["ctxs"][0]["text"]
        answer = next((answer for answer in row["answers"] if answer in passage), None)
        if answer is not None and len(passage) < 1500:
            found.append((passage, row["question"].rstrip("?") + "?", answer))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", help="as for focusdoc train; by default the default model")
    parser.add_argument("--rank", type=int, help="train low-rank matrices; by default full ones")
    parser.add_argument("--steps", type=int, default=420)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--min-chunk-size", type=int, default=384)
    parser.add_argument("--max-tokens", type=int, default=3072)
    parser.add_argument("--max-chunks", type=int, default=128)
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--max-rows", type=int, default=3000)
    parser.add_argument("--max-reused", type=int, default=6)
    parser.add_argument("--max-local", type=int, default=2048)
    parser.add_argument("--quoted", type=float, default=0.7, help="share of questions with passages in front of them")
    parser.add_argument("--first-token", type=float, default=0.5, help="weight of an answer's first token")
    parser.add_argument("--mix", help="weights of the objectives, as name=weight,...; by default MIX")
    parser.add_argument("--accumulate", type=int, default=2)
    parser.add_argument("--start-from", type=Path, help="an adapter to start from")
    parser.add_argument("--save-every", type=int, default=25, help="steps between checkpoints")
    parser.add_argument("--processes", type=int, default=1, help="data-parallel processes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    mix = MIX if options.mix is None else parse_mix(options.mix)
    if options.processes != 1 and not under_launcher():
        raise SystemExit(launch(options.processes, [sys.executable, *sys.argv]))
    books = sorted((options.data / "books").glob("*.txt"))
    samples = SampleMaker(
        (base := load_base(options.model, dtype="bfloat16")).tokenizer,
        [book for book in books if book.stem not in HELD_OUT_BOOKS],
        questions(options.data / "qa"),
        mix=mix,
        shape=SampleShape(
            min_chunk_size=options.min_chunk_size,
            max_tokens=options.max_tokens,
            max_chunks=options.max_chunks,
            prompts=options.prompts,
            max_reused=options.max_reused,
            max_rows=options.max_rows,
            max_local=options.max_local,
            quoted=options.quoted,
        ),
        seed=options.seed,
    )
    config = TrainingConfig(
        steps=options.steps,
        learning_rate=options.learning_rate,
        accumulate=options.accumulate,
        rank=options.rank,
        first_token=options.first_token,
        candidate_positions="shared",
        chunk_size=1024,
        save_every=options.save_every,
    )
    data = "LitBank novels, XQuAD (en), NQ-open oracle passages, 2WikiMultihopQA passages, generated facts"
    record = {"data": data, "held_out": HELD_OUT_BOOKS}
    processes = Processes.launched(base.device)
    samples.stride = processes.count
    runtime = Runtime(processes=processes)
    start = options.start_from
    trainer = Trainer(base, samples, config, options.output, start_from=start, record=record, runtime=runtime)
    stopped: list[int] = []
    signal.signal(signal.SIGINT, lambda *_: stopped.append(1))
    console = Console()
    if trainer.resume():
        console.print(f"resuming after step {trainer.step}")
    for report in trainer.run(stop=lambda: bool(stopped)):
        if not processes.is_main:
            continue
        losses = "  ".join(f"{name} {loss:.2f}" for name, loss in report.losses.items())
        console.print(f"{report.step:5d}  {report.seconds:5.1f} s  {report.tokens:6d} tokens  {losses}")


if __name__ == "__main__":
    main()
