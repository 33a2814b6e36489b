"""The sources of a written answer: the passages that carry its words first, each as the sentence that does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from focusdoc.decoding.answer import Source
from focusdoc.decoding.attribution import SENTENCE_END
from focusdoc.memory.chunk_memory import DocumentMemory
from focusdoc.readers.passages import Passage, text_of
from focusdoc.readers.windows import words_of

#: A sentence carries an answer that has at least this share of the answer's words.
CARRIES = 0.3


def sources_of(
    memories: Sequence[DocumentMemory],
    passages: Sequence[Passage],
    question: str,
    answer: str,
    limit: int,
    read: Sequence[Passage] = (),
) -> tuple[Source, ...]:
    """The passages as sources; first by how probable the finder holds one and the share of the answer's words in it.

    Args:
        read: those that the answer was written from; they come before the others.
        answer: what was written; empty for sources of a question alone, which are the whole passages.
        limit: at most this many sources.
    """
    asked, said = (set(words) for words in words_of([question, answer]))
    as_it_is = answer.strip().rstrip(".").casefold()
    ranked = []
    for passage in passages:
        text = text_of(memories, passage)
        share, start, end = max(
            (_carried(text[start:end], as_it_is, said, asked), start, end) for start, end in _sentences(text)
        )
        narrow = (passage.start + start, passage.start + end) if share[0] >= CARRIES else (passage.start, passage.end)
        ranked.append((passage in read, passage.score + share[0], passage, narrow))
    ranked.sort(key=lambda each: each[:2], reverse=True)
    return tuple(_source(memories, passage, *narrow) for _, _, passage, narrow in ranked[:limit])


def _carried(sentence: str, answer: str, said: set[str], asked: set[str]) -> tuple[float, int]:
    """The share of the answer's words in a sentence, 1 for the answer as it is; for equal ones the question's words."""
    words = set(words_of([sentence])[0])
    share = len(said & words) / len(said) if said else 0.0
    return (1.0 if answer and answer in sentence.casefold() else share), len(asked & words)


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    """The characters of each sentence of a passage, without the space around it."""
    ends = [0, *(found.end() for found in SENTENCE_END.finditer(text)), len(text)]
    for start, end in pairwise(ends):
        if sentence := text[start:end].strip():
            first = text.index(sentence, start)
            yield first, first + len(sentence)


def _source(memories: Sequence[DocumentMemory], passage: Passage, start: int, end: int) -> Source:
    document = memories[passage.memory].document
    assert document is not None  # the finder has refused it
    page = document.page_at(start)
    text = document.text[start:end]
    return Source(page.number, start, end, text, passage.score, passage.chunk, document.name, page.label)
