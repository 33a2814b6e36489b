"""Ablation of our training, as in the paper's section 5.5: objective, dense or single target, local context length.

    python benchmarks/ablation.py --data ../shared/data --output runs/ablation

Every row starts from copies of the base projections and trains for --minutes of wall time. All adapters are then
evaluated on the same held-out prompts, over --chunks chunks of --chunk-size tokens of held-out novels: planted numbers
(exact match), reconstruction of 32 tokens after the 32 before them (token accuracy), and continuation (nats; next to it
the base model's loss without memory). Finished rows, and finished training, are not repeated. The last row decodes as
in the paper, and is evaluated on a third of the prompts. Writes ablation.json, ablation.md and ablation.png.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from rich.console import Console
from torch.nn import functional
from train_books import held_out_books, trained_books

from focusdoc.attention import attention_kernel
from focusdoc.config import FocusConfig
from focusdoc.memory.reading import read_chunks
from focusdoc.modeling.base import BaseModel, load_base
from focusdoc.training.data import SampleMaker
from focusdoc.training.dense import TrainingPrompt
from focusdoc.training.metrics import HeldOut, target_logits
from focusdoc.training.settings import SampleShape, TrainingConfig
from focusdoc.training.trainer import Trainer

SHAPE = SampleShape(
    min_chunk_size=96, max_chunk_size=512, max_chunks=24, max_tokens=1024, prompts=10, max_reused=4, max_rows=1200
)
#: Tokens of a sample of the paper's objective: W and the chunks before it.
PAPER_TOKENS, PAPER_WINDOW = 1536, 512


@dataclass(frozen=True)
class Row:
    """One row of the table, with the training settings that differ."""

    name: str
    mix: dict[str, float]
    objective: str = "dense"
    shape: SampleShape = SHAPE
    options: dict[str, object] = field(default_factory=dict)


BOTH = {"continuation": 0.5, "reconstruction": 0.5}
ROWS = (
    Row("continuation only", {"continuation": 1.0}),
    Row("reconstruction only", {"reconstruction": 1.0}),
    Row("continuation and reconstruction", BOTH),
    Row("both, and questions over planted facts", {**BOTH, "number": 0.5, "words": 0.5}),
    Row("both, local context of up to 64 tokens", BOTH, shape=replace(SHAPE, max_local=64)),
    Row("both, local context of up to 256 tokens", BOTH, shape=replace(SHAPE, max_local=256)),
    Row("both, local context of up to 1,024 tokens", BOTH, shape=replace(SHAPE, max_local=1024)),
    Row(
        "both, one target per sample (the paper's objective)",
        BOTH,
        "paper",
        replace(SHAPE, max_tokens=PAPER_TOKENS),
        {"local_window": PAPER_WINDOW, "memory_strides": (64, 128, 256, 512)},
    ),
)


def train_row(row: Row, base: BaseModel, data: Path, folder: Path, seconds: float, learning_rate: float) -> Trainer:
    """Train an adapter with the settings of `row` for `seconds`, or load the finished one."""
    samples = SampleMaker(base.tokenizer, trained_books(data), mix=row.mix, shape=row.shape)
    config = TrainingConfig(
        steps=100_000,
        learning_rate=learning_rate,
        schedule="constant",
        save_every=100_000,
        objective=row.objective,
        **row.options,
    )
    trainer = Trainer(base, samples, config, folder)
    if trainer.resume():
        return trainer
    started = time.perf_counter()
    for _ in trainer.run(stop=lambda: time.perf_counter() - started > seconds):
        pass
    return trainer


@torch.no_grad()
def evaluate(
    trainer: Trainer, base: BaseModel, data: Path, chunks: int, chunk_size: int, cases: int
) -> dict[str, float]:
    """The held-out scores of an adapter, in its decode mode."""
    kernel = attention_kernel("auto")
    config = FocusConfig(candidate_positions="sequential")
    if trainer.config.objective == "paper":
        config = FocusConfig.paper(candidate_positions="sequential", bos_token_id=base.config.bos_token_id)
        cases = max(1, cases // 3)
    weights = trainer.weights.layers(base.device, base.dtype)
    texts, size = held_out_books(data), f"{chunks}x{chunk_size}"
    test = HeldOut(
        tokenizer=base.tokenizer, texts=texts, shapes=((chunks, chunk_size),), kinds=("number",), cases=cases
    )
    found = test.evaluate(base, weights, config, kernel)
    maker = SampleMaker(base.tokenizer, texts, mix={"reconstruction": 1.0}, shape=SHAPE, seed=7)
    right, alone = [], []
    for case in range(cases):
        rng = random.Random(case)
        ids, following = maker.draw_text(rng, chunks * chunk_size)
        start = rng.randrange(chunks) * chunk_size + rng.randint(0, chunk_size - 64)
        prompt = TrainingPrompt(tuple(ids[start : start + 64]), 32, "reconstruction")
        logits = target_logits(base, weights, read_chunks(base, ids, chunk_size, kernel), prompt, config, kernel)
        right.append(float((logits.argmax(-1) == torch.tensor(prompt.token_ids[-32:])).float().mean()))
        local = torch.tensor([following[:128]])
        base_logits = base.model(local).logits[0, -33:-1].float()
        alone.append(float(functional.cross_entropy(base_logits, local[0, -32:])))
    return {
        "steps": float(trainer.step),
        "numbers": found[f"number {size}"],
        "reconstruction": sum(right) / len(right),
        "continuation": found[f"continuation loss {size}"],
        "cases": float(cases),
        "base alone": sum(alone) / len(alone),
    }


def table(rows: dict[str, dict[str, float]], minutes: float) -> str:
    """The table in Markdown."""
    lines = [
        f"Each row: {minutes:g} minutes of training from scratch.",
        "",
        "| trained on | steps | planted numbers | reconstruction, tokens | continuation, nats |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        scores = f"{row['numbers']:.0%} | {row['reconstruction']:.0%} | {row['continuation']:.2f}"
        lines.append(f"| {name} | {row['steps']:.0f} | {scores} |")
    return "\n".join(lines) + "\n"


def plot(rows: dict[str, dict[str, float]], path: Path) -> None:
    """A bar chart with two bars for each row."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(rows)[::-1]
    figure, axes = pyplot.subplots(figsize=(8, 0.6 * len(names) + 1.2), layout="constrained")
    for offset, key, label in ((0.2, "reconstruction", "reconstruction, tokens"), (-0.2, "numbers", "planted numbers")):
        places = [index + offset for index in range(len(names))]
        axes.barh(places, [100 * rows[name][key] for name in names], height=0.38, label=label)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, 100)
    axes.set_xlabel("right, %")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=5.0, help="of training for each row")
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--chunk-size", type=int, default=256)
    parser.add_argument("--cases", type=int, default=24)
    options = parser.parse_args()
    console = Console()
    options.output.mkdir(parents=True, exist_ok=True)
    results = options.output / "ablation.json"
    rows: dict[str, dict[str, float]] = json.loads(results.read_text()) if results.exists() else {}
    base = load_base(dtype="bfloat16")
    for number, row in enumerate(ROWS):
        if row.name in rows:
            continue
        folder = options.output / f"row-{number}"
        trainer = train_row(row, base, options.data, folder, 60 * options.minutes, options.learning_rate)
        rows[row.name] = evaluate(trainer, base, options.data, options.chunks, options.chunk_size, options.cases)
        results.write_text(json.dumps(rows, indent=1) + "\n")
        console.print(row.name, rows[row.name])
    (options.output / "ablation.md").write_text(table(rows, options.minutes))
    plot(rows, options.output / "ablation.png")


if __name__ == "__main__":
    main()
