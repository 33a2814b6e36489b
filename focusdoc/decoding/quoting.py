"""Quoting: put the passages that the candidates attend to into the local context, verbatim.

A candidate is one key and one value per layer. That suffices to locate a passage and its topic, but names and numbers
are read more reliably from the words themselves. So a question takes two turns: the candidates of its last token show
where they attend, and the passages there join the local context, behind the same candidates. The chunks do not run
again; the cost is the local rows of the passages and scoring a few chunks.
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

from focusdoc.decoding.answering import DecoderT, OwnWay, Writer
from focusdoc.decoding.candidates import Candidates
from focusdoc.decoding.parallel import ParallelDecoder
from focusdoc.decoding.prompt import GAP, Request, local_and_prompt
from focusdoc.documents.sentences import LINE_END, SENTENCE_END, whole_sentences
from focusdoc.memory.chunk_memory import DocumentMemory

#: Tokens around a point, before widening to whole sentences.
WIDTH = 64
#: Scores are averaged over windows of this many tokens; a point is a maximum.
POINT = 16
#: Search range for sentence ends on either side, in tokens; passages nearer than this are joined.
REACH = 40
#: A quoted line of a list has at least this share of the question's rare words that the best line has.
_MIN_WORD_SHARE = 0.5
#: Maximum extent of a passage on either side of its point, in tokens.
_MAX_REACH = WIDTH // 2 + REACH
#: Number of chunks to score: those with the largest attention mass.
NUM_CHUNKS = 8
#: Points that score below this share of the best are not quoted: they would only distract.
MIN_SHARE = 0.3


def runs(tokens: set[int], apart: int = 1) -> Iterator[tuple[int, int]]:
    """Runs of `tokens` as ``(first, end)``, in order; gaps of up to `apart` are bridged."""
    ordered = sorted(tokens)
    start = 0
    for index, token in enumerate(ordered):
        if index + 1 == len(ordered) or ordered[index + 1] > token + apart:
            yield ordered[start], token + 1
            start = index + 1


class Texts:
    """Decodes parts of memories from their tokens; works with or without a document."""

    def __init__(self, memories: Sequence[DocumentMemory], tokenizer: Any) -> None:
        self._memories = memories
        self._tokenizer = tokenizer
        #: For every chunk of all memories: the index of its memory, and its first token there.
        self._starts: list[tuple[int, int]] = []
        for owner, memory in enumerate(memories):
            lengths = [block.chunk_len for block in memory.blocks for _ in range(block.num_chunks)]
            self._starts += [(owner, start) for start in (0, *accumulate(lengths[:-1]))]

    def place(self, chunk: int, token: int) -> tuple[int, int]:
        """The memory of a chunk, and the index of the chunk's `token` in that memory."""
        owner, start = self._starts[chunk]
        return owner, start + token

    def around(self, owner: int, token: int) -> range:
        """The tokens of memory `owner` around a token: `WIDTH` tokens, or in a list whole lines."""
        first = max(0, token - WIDTH // 2)
        last = min(first + WIDTH, self._memories[owner].num_tokens)
        return self._lines(owner, token, range(first, last)) if self.in_list(owner, token) else range(first, last)

    def in_list(self, owner: int, token: int) -> bool:
        """Whether no sentence ends near the token, as in lists, tables and code."""
        near = self._decode(self._memories[owner].token_ids[max(0, token - _MAX_REACH) : token + _MAX_REACH])
        return LINE_END.search(near) is not None and SENTENCE_END.search(near) is None

    def _lines(self, owner: int, token: int, around: range) -> range:
        """The whole lines within `around`; a longer line only if it contains the token."""
        ids = self._memories[owner].token_ids
        near = range(max(0, token - _MAX_REACH), min(len(ids), token + _MAX_REACH))
        breaks = [at + 1 for at in near if LINE_END.search(self._decode(ids[at : at + 1]))]
        before = [near.start, *(at for at in breaks if at <= token - POINT // 2)]
        last = [*(at for at in breaks if at >= token + POINT // 2), near.stop]
        inside = [at for at in before if at >= around.start], [at for at in last if at <= around.stop]
        return range(min(inside[0], default=before[-1]), max(inside[1], default=last[0]))

    def passages(self, owner: int, tokens: set[int]) -> list[str]:
        """The runs of `tokens` as texts, in order, widened to whole sentences that end nearby, without overlapping.

        Runs that are close together are joined: widened separately, they would meet in the middle of a line.
        """
        found = list(runs(tokens, apart=REACH))
        between = [(one[1] + other[0]) // 2 for one, other in pairwise(found)]
        edges = [0, *between, self._memories[owner].num_tokens]
        return [self.passage(owner, *run, *edge) for run, edge in zip(found, pairwise(edges), strict=False)]

    def passage(self, owner: int, first: int, last: int, earliest: int, latest: int) -> str:
        """Tokens ``first:last`` as text, widened to whole sentences if these end nearby, within ``earliest:latest``."""
        ids = self._memories[owner].token_ids
        start, stop = max(earliest, first - REACH), min(latest, last + REACH)
        before, inside, after = (
            self._decode(ids[start:stop]) for start, stop in ((start, first), (first, last), (last, stop))
        )
        text = before + inside + after
        start, end = whole_sentences(text, len(before), len(before) + len(inside))
        return text[start:end]

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text.replace("\N{REPLACEMENT CHARACTER}", "")


def drop_unrelated_lines(places: Sequence[tuple[int, int]], text: Texts, question: str) -> list[tuple[int, int]]:
    """`places` without list lines that belong to another key: such lines look alike, so they score alike.

    A line is dropped if another line has more of the question's rare words, such as a key; words that all lines share
    do not count. Passages of prose are kept: they may not repeat the name they are about.

    Args:
        places: (memory, token) of points, as returned by `Texts.place`.
    """
    request = _words(question)
    shared = {
        (owner, token): request & _words(" ".join(text.passages(owner, set(text.around(owner, token)))))
        for owner, token in places
        if text.in_list(owner, token)
    }
    holders = Counter(word for words in shared.values() for word in words)
    held = {place: sum(math.log(len(shared) / holders[word]) for word in words) for place, words in shared.items()}
    most = max(held.values(), default=0.0)
    return [place for place in places if held.get(place, most) >= _MIN_WORD_SHARE * most]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


class Quoting(OwnWay[DecoderT]):
    """Answers from passages that are quoted into the local context."""

    def writer(self, decoder: DecoderT, logits: Tensor, request: Request, *, started_at: float) -> Writer:
        """See `OwnWay.writer`; quotes the passages, so the first logits are those after them."""
        local_ids = self.local_ids(decoder, request)
        quoted_tokens = len(local_ids) - len(request.local_ids)
        if not quoted_tokens:
            return super().writer(decoder, logits, request, started_at=started_at)
        logits = decoder.restart(local_ids)
        # After quoting, the answer attends mostly to the passages, so its attention to candidates no longer shows
        # where it comes from. The attention that chose the passages does; it counts as the first token's.
        return Writer(
            decoder,
            logits,
            request,
            started_at=started_at,
            quoted_tokens=quoted_tokens,
            attended=decoder,
            attribution_steps=1,
        )

    def local_ids(self, decoder: DecoderT, request: Request) -> list[int]:
        """The local context with the best-scoring passages that fit, from a decoder in its state after `start`."""
        prompt_ids, tokenizer, best = request.prompt_ids, request.tokenizer, list(request.local_ids)
        room = min(
            self.config.quote_tokens or 0,
            self.config.local_window - len(best),
            self.positions_left(decoder.num_chunks, len(best), request.settings.max_new_tokens),
        )
        if request.quoted is None or room <= 0:
            return best
        text = Texts(request.memories, tokenizer)
        places = [text.place(chunk, centre) for chunk, centre in self.points(decoder, prompt_ids)]
        question = tokenizer.decode(prompt_ids, skip_special_tokens=True)
        marked: list[set[int]] = [set() for _ in request.memories]
        for owner, token in drop_unrelated_lines(places, text, question):
            extended = [set(own) for own in marked]
            extended[owner].update(text.around(owner, token))
            passages = [passage for index, own in enumerate(extended) for passage in text.passages(index, own)]
            ids, _ = local_and_prompt(self.base, self.config, list(request.quoted(GAP.join(passages))))
            if len(ids) - len(request.local_ids) > room:
                break
            marked, best = extended, ids
        return best

    def points(self, decoder: DecoderT, prompt_ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """(chunk, token) of the points to quote, best first."""
        mass = decoder.candidate_mass.cpu()
        chunks: list[int] = mass.argsort(descending=True)[:NUM_CHUNKS].tolist()
        return points(
            chunks, decoder.answer_token_scores(chunks, prompt_ids[-1:], mass[None], prompt_len=len(prompt_ids))
        )


class Quoted(Quoting[ParallelDecoder], Candidates):
    """Answers from the candidates, and from the passages that they attend to."""


def points(chunks: Sequence[int], scores: Sequence[Tensor]) -> Iterator[tuple[int, int]]:
    """(chunk, token) of the score maxima, best first; at least ``WIDTH // 2`` apart within a chunk.

    Stops at points below `MIN_SHARE` of the best. `scores` are float32 [chunk_len] for each of `chunks`.
    """
    smooth: list[Tensor] = []
    for attention in scores:
        padded = functional.pad(attention, (POINT // 2, POINT - POINT // 2 - 1))
        smooth.append(functional.avg_pool1d(padded[None, None], POINT, stride=1)[0, 0])
    first = max(float(weights.max()) for weights in smooth)
    while True:
        peaks = torch.stack([weights.max() for weights in smooth])
        index = int(peaks.argmax())
        if peaks[index] <= 0 or peaks[index] < MIN_SHARE * first:
            return
        centre = int(smooth[index].argmax())
        yield chunks[index], centre
        smooth[index][max(0, centre - WIDTH // 2) : centre + WIDTH // 2] = 0
