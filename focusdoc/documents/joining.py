"""Words as they were before they were typeset: without the hyphens of line ends, soft hyphens and ligatures.

Whether a hyphen at a line's end belongs to its word, the document's other words tell: "Green-" and "land" are joined if
"Greenland" stands elsewhere, or if neither of the two is a word of its own; "well-" and "known" keep their hyphen if
"well-known", or another word that begins with "well-", stands elsewhere. What nothing is known of stays as it is.
Numbers (ranges, ISBNs) and what goes on with a capital keep it too. Nothing but the document itself is asked, so that
this holds in every language.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

#: Latin ligatures, and what was typed.
_AS_TYPED = {code: letters for code, letters in enumerate(("ff", "fi", "fl", "ffi", "ffl", "st", "st"), start=0xFB00)}
_SOFT = "\N{SOFT HYPHEN}"
_HYPHENS = f"-\N{HYPHEN}{_SOFT}"
#: A word's parts before and behind a hyphen at a line's end, and what follows the word without a space.
_BROKEN = re.compile(
    rf"(?<![^\W_])(?P<before>[^\W_]+)(?P<hyphen>[{_HYPHENS}])\n(?P<after>[^\W_]+)(?P<rest>\S*)(?:[ ]|(?=\n)|\Z)"
)
_WORD = re.compile(rf"[^\W_]+(?:[{_HYPHENS}][^\W_]+)*")


def as_typed(text: str) -> str:
    """The text without ligatures and soft hyphens, but for those at line ends."""
    return re.sub(rf"{_SOFT}(?!\n)", "", text.translate(_AS_TYPED))


def join_words(pages: Iterable[str]) -> list[str]:
    """Pages with the words joined that were broken at line ends; a line ends behind the joined word."""
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
