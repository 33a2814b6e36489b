"""Draws an answer next to the page of its source: docs/answer.png.

pip install pypdfium2
python scripts/picture.py FILE.pdf "QUESTION" --output docs/answer.png [--reader NAME]
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

import focusdoc
from focusdoc.server.render import boxes_of

#: Pixels for each point of the page.
SCALE = 2.0
#: Points of the page to show above and below the passage.
AROUND = 110.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("question")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--reader", default="auto")
    args = parser.parse_args()
    import matplotlib.pyplot as plt
    import pypdfium2

    engine = focusdoc.FocusEngine.from_pretrained(reader=args.reader)
    memory = engine.read(focusdoc.load(args.file))
    answer = engine.ask(memory, args.question)
    source = answer.sources[0]
    print(answer.text, source)
    page = pypdfium2.PdfDocument(args.file)[source.page - 1]
    lines = boxes_of(page, source.text)
    top = min(page.get_height(), max((line[3] for line in lines), default=page.get_height()) + AROUND)
    bottom = max(0.0, min((line[1] for line in lines), default=0.0) - AROUND)
    figure, (terminal, shown) = plt.subplots(1, 2, figsize=(11, 3.6), width_ratios=(1, 1.5), layout="constrained")
    parts = [f"$ focusdoc ask {args.file.name} \\\n    {args.question!r}", answer.text.strip()]
    parts.append(f"page {source.page}, {source.score:.0%}: {source.text}")
    text = "\n\n".join("\n".join(textwrap.wrap(part, 48) if "$" not in part else [part]) for part in parts)
    terminal.text(0, 1, text, family="monospace", size=9, va="top", transform=terminal.transAxes)
    terminal.axis("off")
    height = page.get_height()
    shown.imshow(page.render(scale=SCALE).to_pil())
    for left, low, right, high in lines:
        box = (SCALE * left, SCALE * (height - high)), SCALE * (right - left), SCALE * (high - low)
        shown.add_patch(plt.Rectangle(*box, color="gold", alpha=0.45, linewidth=0))
    shown.set_ylim(SCALE * (height - bottom), SCALE * (height - top))
    shown.set_title(f"{args.file.name}, page {source.page}", size=9)
    shown.set_xticks([])
    shown.set_yticks([])
    shown.set_anchor("N")
    figure.savefig(args.output, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
