"""Quoting: the passages that the candidates looked at first, put word by word into the local context.

A candidate is one key and one value in every layer. That is enough to find a passage and to tell what it says, but
names and numbers come out of it less surely than out of the words themselves. So the question is asked twice: the
candidates of its last token show where they look, and what stands there joins the local context, behind the same
candidates. The chunks are not run again; it costs the local rows of the passages and one look into a few chunks.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from focusdoc.decoding.answering import AnswerWriter, DecoderT, OwnWay
from focusdoc.decoding.attribution import LINE_END, SENTENCE_END, whole_sentences
from focusdoc.decoding.candidates import Candidates
from focusdoc.decoding.parallel import ParallelDecoder
from focusdoc.decoding.prompt import GAP, Asked, local_and_prompt
from focusdoc.memory.chunk_memory import DocumentMemory

#: Tokens around a point looked at, before they are widened to whole sentences.
WIDTH = 64
#: A point is what lies under a window of this many tokens.
POINT = 16
#: Tokens on either side within which a sentence's end is looked for; passages nearer than this are one.
REACH = 40
#: Of the question's rare words, a list's line that is quoted holds this share of what another one holds, at least.
_SHARED = 0.5
#: Tokens on either side of a point that a passage around it may take, at most.
_FAR = WIDTH // 2 + REACH
#: Chunks that are looked into: those with the largest attention mass.
NUM_CHUNKS = 8
#: What is looked at less than this, against the point looked at most, is no passage: it would only distract.
LEAST = 0.3


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
        """The tokens of memory `owner` around one of them: `WIDTH` of them, and in a list whole lines."""
        first = max(0, token - WIDTH // 2)
        last = min(first + WIDTH, self._memories[owner].num_tokens)
        return self._lines(owner, token, range(first, last)) if self.in_list(owner, token) else range(first, last)

    def in_list(self, owner: int, token: int) -> bool:
        """Whether no sentence ends near a token, as in lists, tables and code."""
        near = self._decode(self._memories[owner].token_ids[max(0, token - _FAR) : token + _FAR])
        return LINE_END.search(near) is not None and SENTENCE_END.search(near) is None

    def _lines(self, owner: int, token: int, around: range) -> range:
        """The whole lines in `around` a token; lines longer than that only where the point itself is in them."""
        ids = self._memories[owner].token_ids
        near = range(max(0, token - _FAR), min(len(ids), token + _FAR))
        breaks = [at + 1 for at in near if LINE_END.search(self._decode(ids[at : at + 1]))]
        before = [near.start, *(at for at in breaks if at <= token - POINT // 2)]
        behind = [*(at for at in breaks if at >= token + POINT // 2), near.stop]
        inside = [at for at in before if at >= around.start], [at for at in behind if at <= around.stop]
        return range(min(inside[0], default=before[-1]), max(inside[1], default=behind[0]))

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


def without_other_lines(places: Sequence[tuple[int, int]], text: Texts, question: str) -> list[tuple[int, int]]:
    """`places` without the lines of lists that are another's: they look alike, and are looked at for it.

    A line is another's where a second one holds more of the question's own words, such as a key. Words that all of them
    hold tell nothing. Passages of sentences all stay: what they tell of someone may not name him again.

    Args:
        places: memory and token of points, as `Texts.place` tells them.
    """
    asked = _words(question)
    shared = {
        (owner, token): asked & _words(" ".join(text.passages(owner, set(text.around(owner, token)))))
        for owner, token in places
        if text.in_list(owner, token)
    }
    holders = Counter(word for words in shared.values() for word in words)
    held = {place: sum(math.log(len(shared) / holders[word]) for word in words) for place, words in shared.items()}
    most = max(held.values(), default=0.0)
    return [place for place in places if held.get(place, most) >= _SHARED * most]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


class Quoting(OwnWay[DecoderT]):
    """Answers from passages that were looked at, quoted into the local context."""

    def writer(self, decoder: DecoderT, logits: Tensor, asked: Asked, *, begun: float) -> AnswerWriter:
        """See `OwnWay.writer`: the passages are quoted here, so that the first logits are those behind them."""
        local_ids = self.local_ids(decoder, asked)
        quoted_tokens = len(local_ids) - len(asked.local_ids)
        if not quoted_tokens:
            return super().writer(decoder, logits, asked, begun=begun)
        logits = decoder.restart(local_ids)
        # Behind passages the answer reads mostly in them. What it pays to candidates no longer tells where it comes
        # from, but the look that the passages were chosen by does, and stands as the first token's.
        return AnswerWriter(decoder, logits, asked, begun=begun, quoted_tokens=quoted_tokens, looks=1)

    def local_ids(self, decoder: DecoderT, asked: Asked) -> list[int]:
        """The local context with the passages in it that were looked at most.

        Args:
            decoder: as it stands after `start`.

        Returns:
            The local context as it is, where nothing fits.
        """
        prompt_ids, tokenizer, best = asked.prompt_ids, asked.tokenizer, list(asked.local_ids)
        longest = len(best) + self.quoted_most(decoder.num_chunks, len(best), asked.settings.max_new_tokens)
        if asked.quoted is None or longest <= len(best):
            return best
        text = Texts(asked.memories, tokenizer)
        places = [text.place(chunk, centre) for chunk, centre in self.points(decoder, prompt_ids)]
        question = tokenizer.decode(prompt_ids, skip_special_tokens=True)
        marked: list[set[int]] = [set() for _ in asked.memories]
        for owner, token in without_other_lines(places, text, question):
            more = [set(own) for own in marked]
            more[owner].update(text.around(owner, token))
            passages = [passage for index, own in enumerate(more) for passage in text.passages(index, own)]
            ids, _ = local_and_prompt(self.base, self.config, list(asked.quoted(GAP.join(passages))))
            if len(ids) > longest:
                break
            marked, best = more, ids
        return best

    def points(self, decoder: DecoderT, prompt_ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Chunk and token of what was looked at, the most first."""
        mass = decoder.candidate_mass.cpu()
        chunks: list[int] = mass.argsort(descending=True)[:NUM_CHUNKS].tolist()
        return points(chunks, decoder.look_inside(chunks, prompt_ids[-1:], mass[None], prompt_len=len(prompt_ids)))

    def quoted_most(self, num_chunks: int, local_len: int, max_new_tokens: int) -> int:
        """Tokens that passages may take, at most."""
        positions = self.positions_left(num_chunks, local_len, max_new_tokens)
        return min(self.config.quote_tokens or 0, self.config.local_window - local_len, positions)


class Quoted(Quoting[ParallelDecoder], Candidates):
    """Answers from passages that the candidates looked at, and from the candidates."""


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
