"""Fits the weights of the retrieval signals, and measures the hit rate with and without each signal.

    python benchmarks/finding.py --data ../shared/data
    python benchmarks/finding.py --data ../shared/data --adapter runs/finder/adapter --write finding.safetensors

Uses tuning questions only: XQuAD from 62 to 80%, the first quarter of Natural Questions, the first half of the novels,
and novels_tuning.json. Memories go to the document store, signals to --cache, so that a second run takes seconds.
`--write` stores the adapter's weights for finding with the fitted weights of the signals.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from focusdoc import Document, FocusEngine
from focusdoc.evaluation.item import Item
from focusdoc.evaluation.natural import Choice, load_items
from focusdoc.modeling.finding_weights import save_finding
from focusdoc.readers.finding import LOOKS, RELEVANCE, SIGNALS, WORDS, Found, Places
from focusdoc.readers.passages import choose_passages

#: Questions about three more novels, to tune on.
NOVELS_TUNING = Path(__file__).with_name("novels_tuning.json")
#: (file, in qa/ of the data if it is no whole path, share of its questions, how many of them)
TUNING = {
    "xquad": ("xquad.en.json", (0.62, 0.8), 100),
    "nq": ("nq-open-oracle.jsonl.gz", (0.0, 0.25), 100),
    "novels": ("novels.json", (0.0, 0.5), None),
    "more novels": (NOVELS_TUNING, (0.0, 1.0), None),
}
#: Questions of one file: the signals [windows, signals], and which windows include the answer's place.
Asked = list[tuple[Found, Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("finding"))
    parser.add_argument("--store", default="auto")
    parser.add_argument("--model", help="a base model; by default the embedded one")
    parser.add_argument("--adapter", default="auto", help="auto, none, or a folder")
    parser.add_argument("--without-finding", action="store_true", help="with candidates that were not trained to find")
    parser.add_argument("--write", type=Path, metavar="FILE")
    args = parser.parse_args()
    adapter = None if args.adapter == "none" else args.adapter
    engine = FocusEngine.from_pretrained(args.model, adapter=adapter, store=args.store)
    finding = None if engine.adapter is None else engine.adapter.finding
    if args.without_finding and engine.adapter is not None:
        finding = None
        engine = FocusEngine(engine.base, replace(engine.adapter, finding=None), store=args.store)
    if args.write is not None and finding is None:
        parser.error("--write needs an adapter with weights for finding; name one with --adapter")
    digest = None if engine.adapter is None else engine.adapter.digest()
    cache = args.cache / hashlib.sha256(f"{SIGNALS} {engine.base.fingerprint} {digest}".encode()).hexdigest()[:12]
    cache.mkdir(parents=True, exist_ok=True)
    sets = {name: signals_of(name, engine, args.data, cache) for name in TUNING}
    show("as shipped", None, sets)
    everything = [1.0] * len(SIGNALS)
    weights = fitted([*sets.values()], everything)
    show("all", weights, sets)
    if args.write is not None and finding is not None:
        looked, relevant, words = (float(weights[index]) for index in (LOOKS, RELEVANCE, WORDS))
        save_finding(replace(finding, signals=(looked, relevant, words)), args.write)
    for left_out, name in enumerate(SIGNALS):
        mask = [float(index != left_out) for index in range(len(SIGNALS))]
        show(f"without {name}", fitted([*sets.values()], mask), sets)
    for left_out, name in enumerate(SIGNALS):
        show(f"{name} alone", torch.tensor([float(index == left_out) for index in range(len(SIGNALS))]), sets)
    for name in sets:
        others = [asked for other, asked in sets.items() if other != name]
        show(f"fitted without {name}", fitted(others, everything), {name: sets[name]})


def signals_of(name: str, engine: FocusEngine, data: Path, cache: Path) -> Asked:
    """The signals of every question of a file, computed once."""
    kept = cache / f"{name}.pt"
    if kept.exists():
        return [
            (Found(Places(spans, tokens, chunks, [0, 0]), signals, scores), holds)
            for spans, tokens, chunks, signals, scores, holds in torch.load(kept, weights_only=True)
        ]
    file, share, limit = TUNING[name]
    items = load_items(data / "qa" / file, Choice(share=share, limit=limit), documents=data / "books")
    asked: Asked = []
    memory, text = None, ""
    for number, item in enumerate(items):
        if memory is None or text != item.context:
            text = item.context
            memory = engine.read(Document.from_text(text))
        found = engine.find(memory, item.after.strip())
        asked.append((found, holds_place(found, item)))
        print(f"{name} {number + 1} of {len(items)}", end="\r", flush=True)
    rows = [(f.places.spans, f.places.tokens, f.places.chunks, f.signals, f.scores, holds) for f, holds in asked]
    torch.save(rows, kept)
    return asked


def holds_place(found: Found, item: Item) -> Tensor:
    """Which windows include the answer's place, bool [windows]."""
    return torch.tensor(
        [any(start <= first and last <= end for first, last in item.places) for _, start, end in found.places.spans]
    )


def fitted(sets: Sequence[Asked], mask: Sequence[float], steps: int = 400, decay: float = 1e-3) -> Tensor:
    """The weights that maximize the likelihood of the windows with the place; all files have the same weight."""
    mask_row = torch.tensor(mask)
    weights = torch.zeros(len(mask), requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.05)
    for _ in range(steps):
        loss = decay * weights.square().sum()
        for asked in sets:
            for found, holds in asked:
                if holds.any():
                    logs = (found.signals @ (weights * mask_row)).log_softmax(dim=0)
                    loss = loss - torch.logsumexp(logs[holds], dim=0) / len(asked) / len(sets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (weights * mask_row).detach()


def show(name: str, weights: Tensor | None, sets: dict[str, Asked]) -> None:
    """Print a row: the weights (None for the finder's own), and how often the place is in the first 1, 4 and 6."""
    shown = [] if weights is None else weights.tolist()
    row = [f"{name:<22}", " ".join(f"{weight:5.2f}" for weight in shown)]
    for of, asked in sets.items():
        ranks = [rank(found, weights, holds) for found, holds in asked]
        row.append(f"{of}: " + " ".join(f"{sum(r < most for r in ranks) / len(ranks):.3f}" for most in (1, 4, 6)))
    print("  ".join(row), flush=True)


def rank(found: Found, weights: Tensor | None, holds: Tensor) -> int:
    """The rank, from 0, of the first passage with the place."""
    scored = found if weights is None else Found(found.places, found.signals, found.signals @ weights)
    places = [found.places.spans[index] for index in holds.nonzero().flatten().tolist()]
    for number, passage in enumerate(choose_passages(scored, lambda passages: True, limit=12)):
        if any(passage.start <= start and end <= passage.end for _, start, end in places):
            return number
    return 12


if __name__ == "__main__":
    main()
