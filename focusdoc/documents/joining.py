"""Undoing typesetting: removes hyphenation at line ends, soft hyphens and ligatures.

Whether a hyphen at a line end belongs to the word is decided by the document's other words: "Green-" and "land" are
joined if "Greenland" occurs elsewhere, or if neither of the two occurs as a word; "well-" and "known" keep their hyphen
if "well-known", or another word that starts with "well-", occurs elsewhere. Other words stay broken. Numbers (ranges,
ISBNs) and words that continue with a capital keep the hyphen. Only the document itself is used, so this works in every
language.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

#: Latin ligatures and their letters.
_AS_TYPED = {code: letters for code, letters in enumerate(("ff", "fi", "fl", "ffi", "ffl", "st", "st"), start=0xFB00)}
_SOFT = "\N{SOFT HYPHEN}"
_HYPHENS = f"-\N{HYPHEN}{_SOFT}"
#: A word broken at a line end: the parts before and after the hyphen, and what follows without a space.
_BROKEN = re.compile(
    rf"(?<![^\W_])(?P<before>[^\W_]+)(?P<hyphen>[{_HYPHENS}])\n(?P<after>[^\W_]++)(?P<rest>\S*+)(?:[ ]|(?=\n)|\Z)"
)
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
