"""Training speed: from copies of the base projections to finding every pass key in 16K tokens.

    python benchmarks/learning.py --data ../shared/data --output runs/learning

Trains only on planted facts, in few short chunks, for --steps steps with a decaying learning rate, and tests --cases
new pass keys among noise sentences, as the authors do, every --every steps. At the end, or after --minutes,
--final-cases others are tested once. Times are wall times, separate for training and testing. Nothing else should run
at the same time.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from heldout import passkey
from rich.console import Console
from train_books import trained_books

from focusdoc import FocusEngine
from focusdoc.modeling.base import load_base
from focusdoc.training.data import SampleMaker
from focusdoc.training.settings import SampleShape, TrainingConfig
from focusdoc.training.trainer import Trainer

SHAPE = SampleShape(
    min_chunk_size=96,
    max_chunk_size=512,
    max_chunks=24,
    max_tokens=768,
    prompts=10,
    max_reused=4,
    max_rows=1200,
    quoted=0.0,
)
MIX = {"number": 0.5, "passkey": 0.2, "pair": 0.15, "reconstruction": 0.15}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="a new folder for the run")
    parser.add_argument("--minutes", type=float, default=15.0, help="of training and testing together")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=50, help="steps between two tests")
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--final-cases", type=int, default=50)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    options = parser.parse_args()
    console = Console()
    base = load_base(dtype="bfloat16")
    samples = SampleMaker(base.tokenizer, trained_books(options.data), mix=MIX, shape=SHAPE)
    config = TrainingConfig(
        steps=options.steps,
        learning_rate=options.learning_rate,
        candidate_positions="shared",
        save_every=options.steps,
    )
    trainer = Trainer(base, samples, config, options.output)
    training = testing = 0.0
    curve: list[dict[str, float]] = []

    def test(cases: int, seed: int) -> float:
        engine = FocusEngine(base, trainer.adapter())
        return passkey(engine, options.tokens, cases, seed).score

    for report in trainer.run():
        training += report.seconds
        if report.step % options.every == 0 and report.step < options.steps:
            started = time.perf_counter()
            score = test(options.cases, seed=report.step)
            testing += time.perf_counter() - started
            curve.append(
                {"step": report.step, "training": training, "testing": testing, "score": score, **report.losses}
            )
            console.print(
                f"step {report.step}: {score:.0%} of {options.cases} after {training:.0f} s of training "
                f"and {testing:.0f} s of tests"
            )
        if training + testing > 60 * options.minutes:
            console.print(f"[yellow]{options.minutes:g} minutes are over.[/yellow]")
            break
    trainer.save()
    final = test(options.final_cases, seed=0)
    console.print(
        f"{final:.1%} of {options.final_cases} other pass keys in {options.tokens:,} tokens, after {trainer.step} "
        f"steps: {training:.0f} s of training and {testing:.0f} s of tests"
    )
    results = {
        "steps": trainer.step,
        "training_seconds": training,
        "testing_seconds": testing,
        "final": final,
        "final_cases": options.final_cases,
        "tokens": options.tokens,
        "curve": curve,
    }
    (options.output / "learning.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
