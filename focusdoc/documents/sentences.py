"""Where sentences, lines and paragraphs of a text end."""

from __future__ import annotations

import regex

#: A sentence end in any script of Unicode, including closing quotation marks and brackets, or a paragraph end. Only
#: ASCII punctuation needs white space after it (3.5, example.org). Thai and Lao put a space between sentences instead,
#: and hardly anywhere else.
SENTENCE_END = regex.compile(
    r"\p{Sentence_Terminal}\p{Sentence_Break=Close}*\s"
    r"|(?![.!?])\p{Sentence_Terminal}[\p{Pe}\p{Pf}]*"
    r"|(?<=[\p{Thai}\p{Lao}])[ ]"
    r"|(?>\r\n|\r|\n){2}|\f"
)
_AT_SENTENCE_END = regex.compile(r"\p{Sentence_Terminal}\p{Sentence_Break=Close}*\Z")
LINE_END = regex.compile(r"\r\n|\r|\n")
#: Passages are widened to sentence ends within this many characters.
_SENTENCE_REACH = 160


def whole_sentences(text: str, start: int, end: int) -> tuple[int, int]:
    """Characters ``start:end`` widened to the nearest sentence or paragraph ends, without surrounding white space.

    If there are none nearby, as in tables, lists and code, widen to whole lines, or at least to whole words.
    """
    before = text[max(0, start - _SENTENCE_REACH) : start]
    cut = _end_of_last(before, SENTENCE_END) or _end_of_last(before, LINE_END) or before.rfind(" ") + 1
    if cut:
        start += cut - len(before)
    after = text[end : end + _SENTENCE_REACH]
    if stop := _end_of_first(after, SENTENCE_END):
        end += 0 if _AT_SENTENCE_END.search(text, max(0, end - 3), end) else stop
    elif end + len(after) == len(text) and _AT_SENTENCE_END.search(after):
        end = len(text)  # the last sentence, with no white space after it
    elif not text[max(0, end - 1) : end].isspace():
        end += _end_of_first(after, LINE_END) or after.find(" ") + 1
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def goes_on(before: str, after: str) -> bool:
    """Whether a sentence goes on from one column or page to the next: it has no end there, and no capital follows."""
    end = before.rstrip()[-3:]
    return bool(end) and not _AT_SENTENCE_END.search(end) and after.lstrip()[:1].islower()


def _end_of_first(text: str, mark: regex.Pattern[str]) -> int:
    """End of the first `mark` in `text`; 0 if there is none."""
    found = mark.search(text)
    return found.end() if found else 0


def _end_of_last(text: str, mark: regex.Pattern[str]) -> int:
    """End of the last `mark` in `text`; 0 if there is none."""
    return max((found.end() for found in mark.finditer(text)), default=0)
