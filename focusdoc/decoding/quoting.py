"""Quoting: the passages that the candidates looked at first, put word by word into the local context.

A candidate is one key and one value in every layer. That is enough to find a passage and to tell what it says, but
names and numbers come out of it less surely than out of the words themselves. So the question is asked twice: the
candidates of its last token show where they look, and what stands there joins the local context, behind the same
candidates. The chunks are not run again; it costs the local rows of the passages and one look into a few chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from focusdoc.decoding.attribution import whole_sentences
from focusdoc.decoding.parallel import ParallelDecoder
from focusdoc.memory.chunk_memory import DocumentMemory

#: Chunks that are looked into: those with the largest attention mass.
NUM_CHUNKS = 8
#: What is looked at less than this, against the point looked at most, is no passage: it would only distract.
LEAST = 0.3
#: Tokens around a point looked at, before they are widened to whole sentences.
WIDTH = 64
#: A point is what lies under a window of this many tokens.
_POINT = 16
#: Tokens on either side within which a sentence's end is looked for; passages nearer than this are one.
REACH = 40
#: Two passages of one document stand apart by this.
GAP = "\n\n"


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
    marked: list[set[int]] = [set() for _ in memories]
    best = list(local_ids)
    for chunk, centre in points(chunks, looked):
        owner, token = text.place(chunk, centre)
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
        padded = functional.pad(attention, (_POINT // 2, _POINT - _POINT // 2 - 1))
        smooth.append(functional.avg_pool1d(padded[None, None], _POINT, stride=1)[0, 0])
    first = max(float(weights.max()) for weights in smooth)
    while True:
        peaks = torch.stack([weights.max() for weights in smooth])
        index = int(peaks.argmax())
        if peaks[index] <= 0 or peaks[index] < LEAST * first:
            return
        centre = int(smooth[index].argmax())
        yield chunks[index], centre
        smooth[index][max(0, centre - WIDTH // 2) : centre + WIDTH // 2] = 0


def runs(tokens: set[int], apart: int = 1) -> Iterator[tuple[int, int]]:
    """Runs of `tokens` as ``(first, behind the last)``, in order; neighbours are at most `apart` from one another."""
    ordered = sorted(tokens)
    start = 0
    for index, token in enumerate(ordered):
        if index + 1 == len(ordered) or ordered[index + 1] > token + apart:
            yield ordered[start], token + 1
            start = index + 1


class Texts:
    """The words of memories by their tokens, whether or not a document stands behind them."""

    def __init__(self, memories: Sequence[DocumentMemory], tokenizer: Any) -> None:
        self._memories = memories
        self._tokenizer = tokenizer
        #: For every chunk of all memories, its memory and its first token there.
        self._starts: list[tuple[int, int]] = []
        for owner, memory in enumerate(memories):
            lengths = [block.chunk_len for block in memory.blocks for _ in range(block.num_chunks)]
            self._starts += [(owner, start) for start in (0, *accumulate(lengths[:-1]))]

    def place(self, chunk: int, token: int) -> tuple[int, int]:
        """The memory that holds a chunk, and where in the memory a token of the chunk is."""
        owner, start = self._starts[chunk]
        return owner, start + token

    def around(self, owner: int, token: int) -> range:
        """The tokens of memory `owner` around one of them, `WIDTH` of them."""
        first = max(0, token - WIDTH // 2)
        return range(first, min(first + WIDTH, self._memories[owner].num_tokens))

    def passages(self, owner: int, tokens: set[int]) -> list[str]:
        """The runs of `tokens` of a memory as texts, in order; widening never takes one into another.

        What lies closely between two of them joins them: widened, they would meet in the middle of a line.
        """
        found = list(runs(tokens, apart=REACH))
        between = [(one[1] + other[0]) // 2 for one, other in pairwise(found)]
        edges = [0, *between, self._memories[owner].num_tokens]
        return [self.passage(owner, *run, *edge) for run, edge in zip(found, pairwise(edges), strict=False)]

    def passage(self, owner: int, first: int, behind: int, earliest: int, latest: int) -> str:
        """Tokens `first` to `behind` of a memory as text, widened to whole sentences where their ends are near.

        Args:
            earliest, latest: the tokens that it may be widened to.
        """
        ids = self._memories[owner].token_ids
        start, stop = max(earliest, first - REACH), min(latest, behind + REACH)
        before, here, after = (
            self._decode(ids[start:stop]) for start, stop in ((start, first), (first, behind), (behind, stop))
        )
        text = before + here + after
        start, end = whole_sentences(text, len(before), len(before) + len(here))
        return text[start:end]

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text.replace("\N{REPLACEMENT CHARACTER}", "")
