"""Draws an answer next to the page of its source: docs/answer.png.

pip install pypdfium2
python scripts/picture.py FILE.pdf "QUESTION" --output docs/answer.png [--reader NAME]
"""

from __future__ import annotations

import argparse
import re
import textwrap
from pathlib import Path
from typing import Any

import focusdoc

#: Pixels for each point of the page.
SCALE = 2.0
#: Points of the page to show above and below the passage.
AROUND = 110.0


def boxes_of(page: Any, text: str) -> list[tuple[float, float, float, float]]:
    """The boxes of a text's lines on a page: (left, bottom, right, top) in points."""
    words = page.get_textpage()
    shown = words.get_text_range()
    places = [index for index, letter in enumerate(shown) if letter.isalnum()]
    letters = "".join(shown[index] for index in places)
    found: list[tuple[float, float, float, float]] = []
    for line in text.splitlines():
        wanted = "".join(filter(str.isalnum, line))
        # Text of columns is interleaved, so each line is searched separately, right below the previous one.
        for match in re.finditer(re.escape(wanted), letters) if wanted else ():
            each = [words.get_charbox(index) for index in places[match.start() : match.end()]]
            lefts, lows, rights, highs = zip(*each, strict=True)
            box = (min(lefts), min(lows), max(rights), max(highs))
            if not found or 0 < found[-1][1] - box[1] < 20:
                found.append(box)
                break
    return found


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
