"""Dehyphenation of words broken at line ends: how many are joined, hyphenated or still broken, and how many wrongly.

    python benchmarks/line_ends.py --data ../shared/data

For real PDFs every hyphen at a line end is printed with its outcome, to be judged by eye, and ligatures are counted.
Novels, whose words are whole, are typeset in lines of 60 characters: compounds are broken at their hyphens, other long
words at random positions, so that the right outcome is known.
"""

from __future__ import annotations

import argparse
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pypdf import PdfReader

from focusdoc.documents.joining import as_typed, join_words
from focusdoc.documents.pdf_columns import page_text

_WIDTH, _MIN_WORD, _MAX_TEXT = 60, 7, 400_000
_BROKEN = re.compile(r"([^\W_]+)[-\u2010\xad]\n([^\W_]+)")
_LIGATURE = re.compile("[\ufb00-\ufb06]")
_OUTCOMES = {"": "joined", "-": "kept", "-\n": "left"}


def outcomes(broken: list[tuple[str, str]], text: str) -> Iterator[str]:
    """The outcomes of broken words, in the order of the text."""
    place = 0
    for before, after in broken:
        found = re.compile(rf"(?<![^\W_]){re.escape(before)}(-\n|-|){re.escape(after)}").search(text, place)
        if found is None:
            raise ValueError(f"{before}-{after} is not in the text behind character {place}")
        place = found.start(1)
        yield _OUTCOMES[found[1]]


def typeset(text: str, rng: random.Random) -> tuple[str, list[tuple[str, str]], list[str]]:
    """Typeset a text; returns it, the broken words, and for each "compound" or "word"."""
    lines, broken, kinds, line = [], [], [], ""
    for word in text.split():
        room = _WIDTH - len(line) - 1
        hyphens = [at for at in range(2, min(room + 1, len(word) - 1)) if re.match(r"[^\W_]-[^\W_]", word[at - 2 :])]
        if len(word) <= room:
            line = f"{line} {word}".strip()
        elif hyphens:
            cut = hyphens[-1]
            lines.append(f"{line} {word[:cut]}")
            broken.append((re.split(r"[\W_]", word[: cut - 1])[-1], re.match(r"[^\W_]+", word[cut:])[0]))  # type: ignore[index]
            kinds.append("compound")
            line = word[cut:]
        elif room >= 5 and rng.random() < 0.7 and re.fullmatch(rf"[^\W\d_]{{{_MIN_WORD},}}[.,;:!?]?", word):
            letters = len(word.rstrip(".,;:!?"))
            cut = rng.randint(3, max(3, min(room - 1, letters - 3)))
            lines.append(f"{line} {word[:cut]}-")
            broken.append((word[:cut], word[cut:letters]))
            kinds.append("word")
            line = word[cut:]
        else:
            lines.append(line)
            line = word
    return "\n".join([*lines, line]), broken, kinds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with pdf/ and books/")
    data: Path = parser.parse_args().data
    totals: Counter[str] = Counter()
    for path in sorted(data.glob("pdf/*.pdf")):
        pages = [page_text(page) for page in PdfReader(path).pages]
        totals["pages"] += len(pages)
        totals["ligatures before"] += sum(len(_LIGATURE.findall(page)) for page in pages)
        joined = join_words(pages)
        totals["ligatures after"] += sum(len(_LIGATURE.findall(page)) for page in joined)
        for page, after in zip(map(as_typed, pages), joined, strict=True):
            broken = [(found[1], found[2]) for found in _BROKEN.finditer(page)]
            for (first, second), outcome in zip(broken, outcomes(broken, after), strict=True):
                print(f"{path.name}: {first}-/{second} {outcome}")
                totals[outcome] += 1
    print("PDFs:", dict(totals))
    rng = random.Random(0)
    counts: dict[str, Counter[str]] = {"word": Counter(), "compound": Counter()}
    for path in sorted(data.glob("books/*.txt")):
        text, broken, kinds = typeset(as_typed(path.read_text("utf-8")[:_MAX_TEXT]), rng)
        for kind, outcome in zip(kinds, outcomes(broken, join_words([text])[0]), strict=True):
            counts[kind][outcome] += 1
    for kind, found in counts.items():
        total = found.total()
        print(
            f"novels, {total:,} of a {kind}:", ", ".join(f"{count / total:.1%} {name}" for name, count in found.items())
        )


if __name__ == "__main__":
    main()
