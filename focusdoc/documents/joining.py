"""Undoing typesetting: removes hyphenation at line ends, soft hyphens, ligatures and lines with page numbers.

Whether a hyphen at a line end belongs to the word is decided by the document's other words: "Green-" and "land" are
joined if "Greenland" occurs elsewhere, or if neither of the two occurs as a word; "well-" and "known" keep their hyphen
if "well-known", or another word that starts with "well-", occurs elsewhere. Other words stay broken. Numbers (ranges,
ISBNs) and words that continue with a capital keep the hyphen. Only the document itself is used, so this works in every
language.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from operator import itemgetter

#: Latin ligatures and their letters.
_AS_TYPED = {code: letters for code, letters in enumerate(("ff", "fi", "fl", "ffi", "ffl", "st", "st"), start=0xFB00)}
_SOFT = "\N{SOFT HYPHEN}"
_HYPHENS = f"-\N{HYPHEN}{_SOFT}"
#: A word broken at a line end: the parts before and after the hyphen, and what follows without a space.
_BROKEN = re.compile(
    rf"(?<![^\W_])(?P<before>[^\W_]+)(?P<hyphen>[{_HYPHENS}])\n(?P<after>[^\W_]++)(?P<rest>\S*+)(?:[ ]|(?=\n)|\Z)"
)
#: A number at the start of a line or behind its first word; at its end.
_PAGE_NUMBERS = re.compile(r"\W*(?:[^\W\d_]+\s+)?(\d{1,5})\b", re.ASCII), re.compile(r".*?\b(\d{1,5})\W*\Z", re.ASCII)
#: Fewest pages whose first or last line counts them.
_MIN_NUMBERED = 3
_WORD = re.compile(rf"[^\W_]+(?:[{_HYPHENS}][^\W_]+)*")


def as_typed(text: str) -> str:
    """The text without ligatures and without soft hyphens, except for those at line ends."""
    return re.sub(rf"{_SOFT}(?!\n)", "", text.translate(_AS_TYPED))


def join_words(pages: Iterable[str]) -> list[str]:
    """Join the words that are broken at line ends; the line break moves behind the word."""
    pages = list(map(as_typed, pages))
    known = Counter(word.casefold() for page in pages for word in _WORD.findall(_BROKEN.sub(" ", page)))
    beginnings = {word[: word.index("-")] for word in known if "-" in word}

    def joined(found: re.Match[str]) -> str:
        before, hyphen, after = found["before"], found["hyphen"], found["after"]
        first, second = before.casefold(), after.casefold()
        whole, compound = known[first + second], known[f"{first}-{second}"]
        if hyphen == _SOFT:
            hyphen = ""
        elif after[0].islower() and before[-1].isalpha():
            if whole > compound or not (compound or first in beginnings or known[first] or known[second]):
                hyphen = ""
            elif not compound and first not in beginnings:
                return found[0]
        return f"{before}{hyphen}{after}{found['rest']}\n"

    return [_BROKEN.sub(joined, page) for page in pages]


def without_page_numbers(pages: Sequence[str]) -> list[str]:
    """The pages without first or last lines such as "- 12 -" or "Chapter 2 57".

    They are removed if on half of the pages a number there counts the pages; the first such line stays.
    """
    lines = [page.strip().split("\n") for page in pages]
    for edge in (0, -1):
        offsets = [{number - index for number in _page_numbers(page[edge])} for index, page in enumerate(lines)]
        counted = Counter(offset for each in offsets for offset in each)
        offset, num_numbered = max(counted.items(), key=itemgetter(1), default=(0, 0))
        if num_numbered >= max(_MIN_NUMBERED, len(pages) / 2):
            numbered = [index for index, each in enumerate(offsets) if offset in each]
            for index in numbered[1:]:
                del lines[index][edge]
                lines[index] = lines[index] or [""]
    return ["\n".join(page).strip("\n") for page in lines]


def _page_numbers(line: str) -> set[int]:
    """The numbers in a line that may be the page's."""
    found = (pattern.match(line) for pattern in _PAGE_NUMBERS)
    return {int(match[1]) for match in found if match}
