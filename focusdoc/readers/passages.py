"""The passages that a reader gets: one of each chunk that the candidates looked at most, as whole sentences.

One a chunk, for the chunks' attention masses tell more surely which places count than the looks inside them: of 19
natural questions of four novels the answer's words stood among six such passages in 17, and in 14 where the places
looked at most were taken from whichever chunk (2026-11-29; the first half of the novels, nothing tuned on the
others).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from focusdoc.decoding.answer import Source
from focusdoc.decoding.attribution import passage_tokens, whole_sentences
from focusdoc.decoding.generation import AnswerDecoder
from focusdoc.documents.chunking import char_span
from focusdoc.errors import ConfigError
from focusdoc.memory.chunk_memory import DocumentMemory

#: Chunks that give a passage: those with the largest attention mass.
NUM_CHUNKS = 6
#: Characters on either side of the point looked at, before a passage is widened to whole sentences.
HALF_WIDTH = 200


@dataclass(frozen=True, slots=True)
class Passage:
    """Characters ``start:end`` of the document of memory number `memory`.

    Attributes:
        chunk: of the document, where it was looked at.
        score: share of the attention paid to all candidates that its chunk's got.
    """

    memory: int
    start: int
    end: int
    chunk: int
    score: float


def find_passages(
    decoder: AnswerDecoder,
    memories: Sequence[DocumentMemory],
    prompt_ids: Sequence[int],
    *,
    budget: int,
    count: Callable[[str], int],
) -> list[Passage]:
    """The passages where the candidates of the prompt's last token looked, the chunk they paid most attention to first.

    Args:
        decoder: over the chunks of `memories` in their order, as it stands after `start`.
        budget: tokens that they may take in all, as `count` counts them; the first one is taken whatever it takes.
    """
    mass = decoder.candidate_mass.cpu()
    shares = mass / mass.sum().clamp_min(1e-30)
    chunks: list[int] = mass.argsort(descending=True)[:NUM_CHUNKS].tolist()
    looked = decoder.look_inside(chunks, prompt_ids[-1:], mass[None], prompt_len=len(prompt_ids))
    owners = [(number, chunk) for number, memory in enumerate(memories) for chunk in memory.chunks]
    found: list[Passage] = []
    for index, attention in zip(chunks, looked, strict=True):
        number, chunk = owners[index]
        token = chunk.token_start + passage_tokens(attention)[2]
        passage = _around(memories[number], number, chunk.index, token, float(shares[index]))
        more = _with(passage, found)
        if found and sum(count(text_of(memories, each)) for each in more) > budget:
            break
        found = more
    return sorted(found, key=lambda each: -each.score)


def text_of(memories: Sequence[DocumentMemory], passage: Passage) -> str:
    """The words of a passage."""
    document = memories[passage.memory].document
    assert document is not None  # `_around` has refused it
    return document.text[passage.start : passage.end]


def in_order(passages: Sequence[Passage]) -> list[Passage]:
    """Passages in the order of the documents."""
    return sorted(passages, key=lambda each: (each.memory, each.start))


def source_of(memories: Sequence[DocumentMemory], passage: Passage) -> Source:
    """A passage as a source of an answer."""
    document = memories[passage.memory].document
    assert document is not None
    page = document.page_at(passage.start)
    return Source(
        page=page.number,
        start=passage.start,
        end=passage.end,
        text=text_of(memories, passage),
        score=passage.score,
        chunk=passage.chunk,
        document=document.name,
        page_label=page.label,
    )


def _around(memory: DocumentMemory, number: int, chunk: int, token: int, score: float) -> Passage:
    if memory.document is None or memory.tokenized is None:
        raise ConfigError("A reader needs the words of a document; read it with engine.read, not as bare token ids.")
    text = memory.document.text
    centre, _ = char_span(memory.tokenized, token, token + 1)
    start, end = whole_sentences(text, max(0, centre - HALF_WIDTH), min(len(text), centre + HALF_WIDTH))
    return Passage(number, start, end, chunk, score)


def _with(passage: Passage, found: Sequence[Passage]) -> list[Passage]:
    """`found` and `passage`, which is one with those that it meets."""
    others = []
    for each in found:
        if each.memory == passage.memory and each.start <= passage.end and passage.start <= each.end:
            best = max(each, passage, key=lambda one: one.score)
            passage = replace(best, start=min(each.start, passage.start), end=max(each.end, passage.end))
        else:
            others.append(each)
    return [*others, passage]
