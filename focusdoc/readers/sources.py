"""The sources of a reader's answer: the sentences of the passages that contain the answer's words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from focusdoc.decoding.answer import Source
from focusdoc.documents.sentences import SENTENCE_END
from focusdoc.memory.chunk_memory import DocumentMemory
from focusdoc.readers.passages import Passage, text_of
from focusdoc.readers.windows import words_of

#: A sentence is quoted alone if it has at least this share of the answer's words.
MIN_SHARE = 0.3


def sources_of(
    memories: Sequence[DocumentMemory],
    passages: Sequence[Passage],
    question: str,
    answer: str,
    limit: int,
    read: Sequence[Passage] = (),
) -> tuple[Source, ...]:
    """The passages as sources, ranked by the finder's probability plus the share of the answer's words.

    Args:
        read: the passages that the answer was written from; they rank first.
        answer: the answer; empty to return whole passages.
        limit: maximum number of sources.
    """
    question_words, answer_words = (set(words) for words in words_of([question, answer]))
    literal = answer.strip().rstrip(".").casefold()
    ranked = []
    for passage in passages:
        text = text_of(memories, passage)
        share, start, end = max(
            (_overlap(text[start:end], literal, answer_words, question_words), start, end)
            for start, end in _sentences(text)
        )
        span = (passage.start + start, passage.start + end) if share[0] >= MIN_SHARE else (passage.start, passage.end)
        ranked.append((passage in read, passage.score + share[0], passage, span))
    ranked.sort(key=lambda each: each[:2], reverse=True)
    return tuple(_source(memories, passage, *span) for _, _, passage, span in ranked[:limit])


def _overlap(sentence: str, answer: str, answer_words: set[str], question_words: set[str]) -> tuple[float, int]:
    """The share of the answer's words in a sentence (1 for a literal match), and the question words in it for ties."""
    words = set(words_of([sentence])[0])
    share = len(answer_words & words) / len(answer_words) if answer_words else 0.0
    return (1.0 if answer and answer in sentence.casefold() else share), len(question_words & words)


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    """The character span of each sentence of a passage, without surrounding white space."""
    ends = [0, *(found.end() for found in SENTENCE_END.finditer(text)), len(text)]
    for start, end in pairwise(ends):
        if sentence := text[start:end].strip():
            first = text.index(sentence, start)
            yield first, first + len(sentence)


def _source(memories: Sequence[DocumentMemory], passage: Passage, start: int, end: int) -> Source:
    document = memories[passage.memory].document
    assert document is not None  # checked by the finder
    page = document.page_at(start)
    text = document.text[start:end]
    return Source(page.number, start, end, text, passage.score, passage.chunk, document.name, page.label)
