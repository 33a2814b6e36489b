"""Quoting: the passages that the candidates looked at first, put word by word into the local context.

A candidate is one key and one value in every layer. That is enough to find a passage and to tell what it says, but
names and numbers come out of it less surely than out of the words themselves. So the question is asked twice: the
candidates of its last token show where they look, and what stands there joins the local context, behind the same
candidates. The chunks are not run again; it costs the local rows of the passages and one look into a few chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from focusdoc.decoding.parallel import ParallelDecoder
from focusdoc.decoding.passages import GAP, POINT, WIDTH, Texts, without_other_lines
from focusdoc.memory.chunk_memory import DocumentMemory

#: Chunks that are looked into: those with the largest attention mass.
NUM_CHUNKS = 8
#: What is looked at less than this, against the point looked at most, is no passage: it would only distract.
LEAST = 0.3

#: Token ids of a local context with a text of passages in it.
RenderQuoted = Callable[[str], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Quoting:
    """How passages are put into a question's local context.

    Attributes:
        limit: tokens that they may take, at most.
        render: it ends as the local context without passages does.
        tokenizer: of the model.
    """

    limit: int
    render: RenderQuoted
    tokenizer: Any


def quote(
    decoder: ParallelDecoder,
    memories: Sequence[DocumentMemory],
    quoting: Quoting,
    local_ids: Sequence[int],
    prompt_ids: Sequence[int],
) -> list[int]:
    """The local context with the passages in it that the candidates of the prompt's last token looked at most.

    Args:
        decoder: over the chunks of `memories` in their order, as it stands after `start`.
        local_ids, prompt_ids: what it was started with; the local context is returned as it is where nothing fits.
    """
    mass = decoder.candidate_mass.cpu()
    chunks: list[int] = mass.argsort(descending=True)[:NUM_CHUNKS].tolist()
    looked = decoder.look_inside(chunks, prompt_ids[-1:], mass[None], prompt_len=len(prompt_ids))
    text = Texts(memories, quoting.tokenizer)
    places = [text.place(chunk, centre) for chunk, centre in points(chunks, looked)]
    question = quoting.tokenizer.decode(prompt_ids, skip_special_tokens=True)
    marked: list[set[int]] = [set() for _ in memories]
    best = list(local_ids)
    for owner, token in without_other_lines(places, text, question):
        more = [set(own) for own in marked]
        more[owner].update(text.around(owner, token))
        passages = [passage for index, own in enumerate(more) for passage in text.passages(index, own)]
        ids = list(quoting.render(GAP.join(passages)))
        if len(ids) > len(local_ids) + quoting.limit:
            break
        marked, best = more, ids
    return best


def points(chunks: Sequence[int], looked: Sequence[Tensor]) -> Iterator[tuple[int, int]]:
    """Chunk and token of what was looked at, the most first; no two of a chunk nearer than `WIDTH` // 2.

    They end where less than `LEAST` of the first one's look is left.

    Args:
        looked: float32 [chunk_len] for each of `chunks`.
    """
    smooth: list[Tensor] = []
    for attention in looked:
        padded = functional.pad(attention, (POINT // 2, POINT - POINT // 2 - 1))
        smooth.append(functional.avg_pool1d(padded[None, None], POINT, stride=1)[0, 0])
    first = max(float(weights.max()) for weights in smooth)
    while True:
        peaks = torch.stack([weights.max() for weights in smooth])
        index = int(peaks.argmax())
        if peaks[index] <= 0 or peaks[index] < LEAST * first:
            return
        centre = int(smooth[index].argmax())
        yield chunks[index], centre
        smooth[index][max(0, centre - WIDTH // 2) : centre + WIDTH // 2] = 0
