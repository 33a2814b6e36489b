"""Finding: ranking the windows of the documents for a question.

A window's score is a weighted sum of signals, the logit of a softmax over all windows. With candidates that were
trained to find (`FindingWeights`), the signals are

- the candidates' token scores in the window, relative to the largest of all windows, as a logarithm;
- the relevance of the window's chunk, from the values of its candidate;
- the BM25 score of the window, relative to the best one.

Other candidates' token scores are weighted by the attention that the local context paid to the candidates (FocusLLM,
section 3.1), and in place of the relevance there are the token scores of the base model's retrieval heads for the
question, which runs behind every chunk as the dynamic prompt anyway (arXiv 2404.15574, 2506.09944). Their weights
were fitted likewise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional

from focusdoc.decoding.answering import OwnWay
from focusdoc.decoding.looking import FLOOR, POOL_WIDTH
from focusdoc.decoding.prompt import Request, encode_text
from focusdoc.decoding.state import question_rows
from focusdoc.errors import ConfigError
from focusdoc.memory.chunk_memory import DocumentMemory
from focusdoc.readers.windows import Windows, words_of

#: Maximum number of chunks to score.
MAX_CHUNKS = 32
#: Names of the signals, in the order of their weights.
SIGNALS = ("looked", "relevance", "heads", "words")
LOOKS, RELEVANCE, HEADS, WORDS = range(4)
#: Weights of the signals for candidates that were not trained to find.
WEIGHTS = (1.25, 0.0, 0.48, 4.8)


@dataclass(frozen=True, slots=True)
class Places:
    """The windows of several memories, concatenated.

    Attributes:
        spans: (memory index, first character, end character) of each window.
        tokens: first token and end token, counted over all memories, int64 [windows, 2].
        chunks: the chunk with the window's middle, counted over all memories, int64 [windows].
        first_chunks: the first chunk of each memory, counted over all memories.
    """

    spans: list[tuple[int, int, int]]
    tokens: Tensor
    chunks: Tensor
    first_chunks: list[int]

    def chunk_of(self, window: int) -> int:
        """The index of a window's chunk in its own document."""
        return int(self.chunks[window]) - self.first_chunks[self.spans[window][0]]


@dataclass(frozen=True, slots=True)
class Found:
    """The scored windows for a question.

    Attributes:
        signals: float32 [windows, signals], in the order of `SIGNALS`; those that do not exist are 0.
        scores: float32 [windows], their weighted sum.
        look_peak: the highest score that a candidate gave, absolute.
        words_peak: BM25 score of the best window, per word of the question.
    """

    places: Places
    signals: Tensor
    scores: Tensor
    look_peak: float = 0.0
    words_peak: float = 0.0

    def chunk_probabilities(self, num_chunks: int) -> Tensor:
        """The probability that the place is in each chunk, over all memories: float32 [num_chunks]."""
        return torch.zeros(num_chunks).index_add_(0, self.places.chunks, self.scores.softmax(dim=0))


class Finder:
    """Ranks the windows of documents for a question.

    Args:
        way: the base model's way whose decoders score the chunks.
        heads: the base model's retrieval heads as (layer, head) pairs; empty if unknown.
    """

    def __init__(self, way: OwnWay[Any], heads: Iterable[tuple[int, int]] = ()) -> None:
        self.way = way
        self._heads = tuple(sorted(heads))
        #: The windows of each memory, cached for its lifetime.
        self._windows: WeakKeyDictionary[DocumentMemory, Windows] = WeakKeyDictionary()

    def find(self, request: Request, question: str) -> Found:
        """Score all windows of the request's memories for `question`.

        Args:
            question: the end of the dynamic prompt; if its tokens are not found there, the whole prompt counts.

        Raises:
            ConfigError: a memory was made from bare token ids.
        """
        memories, prompt_ids = request.memories, request.prompt_ids
        decoder = self.way.decoder(request.blocks, 1)
        windows = [self._windows_of(memory) for memory in memories]
        places = places_of(memories, windows)
        with decoder.base.tokenizer_lock:
            question_ids = encode_text(request.tokenizer, question)
        trained = decoder.finding
        heads = self._heads if trained is None else ()
        decoder.look(request.local_ids, prompt_ids, question_rows(prompt_ids, question_ids, heads))
        words = torch.cat([torch.from_numpy(each.matches(question)) for each in windows])
        signals = torch.zeros(len(words), len(SIGNALS))
        signals[:, WORDS] = words / words.max().clamp_min(1e-30)
        # Until the token scores are known, the chunks' relevance or attention mass estimates which chunks need scores.
        mass = decoder.candidate_mass.cpu()
        if trained is None or decoder.relevance is None:  # both or none
            weights = torch.tensor(WEIGHTS)
            signals[:, LOOKS] = torch.log(mass / mass.max().clamp_min(1e-30) + FLOOR)[places.chunks]
        else:
            weights = torch.tensor([trained.signals[0], trained.signals[1], 0.0, trained.signals[2]])
            signals[:, RELEVANCE] = decoder.relevance[places.chunks]
            mass = torch.ones(decoder.num_chunks)
        estimate = torch.full((decoder.num_chunks,), -torch.inf)
        estimate.scatter_reduce_(0, places.chunks, signals @ weights, "amax")
        chunks: list[int] = estimate.argsort(descending=True)[:MAX_CHUNKS].tolist()
        starts = _token_starts(memories)
        scores = decoder.answer_token_scores(chunks, prompt_ids[-1:], mass[None], prompt_len=len(prompt_ids))
        signals[:, LOOKS] = _in_windows(_spread(chunks, [look[None] for look in scores], starts), places)
        if head_scores := decoder.question_token_scores(chunks):
            signals[:, HEADS] = _in_windows(_spread(chunks, head_scores, starts), places)
        look_peak = max(float(look.max()) for look in scores)
        words_peak = float(words.max()) / max(1, len(words_of([question])[0]))
        return Found(places, signals, signals @ weights, look_peak, words_peak)

    def _windows_of(self, memory: DocumentMemory) -> Windows:
        if memory.document is None or memory.tokenized is None:
            raise ConfigError("A reader needs the text of a document; read it with engine.read, not as bare token ids.")
        if memory not in self._windows:
            self._windows[memory] = Windows(memory.document.text)
        return self._windows[memory]


def places_of(memories: Sequence[DocumentMemory], windows: Sequence[Windows]) -> Places:
    """The windows of `memories`, concatenated."""
    spans: list[tuple[int, int, int]] = []
    tokens, chunks = [], []
    num_tokens, first_chunks = 0, [0]
    for number, (memory, own) in enumerate(zip(memories, windows, strict=True)):
        assert memory.tokenized is not None  # checked by the finder
        spans += [(number, start, end) for start, end in own.spans]
        edges = torch.tensor(own.spans).reshape(-1, 2)
        starts = torch.from_numpy(memory.tokenized.starts)
        inside = torch.searchsorted(starts, edges).clamp_max(memory.num_tokens - 1)
        inside[:, 1] = torch.maximum(inside[:, 1], inside[:, 0] + 1)
        firsts = torch.tensor([chunk.token_start for chunk in memory.chunks])
        tokens.append(inside + num_tokens)
        chunks.append(torch.searchsorted(firsts, inside.sum(dim=1) // 2, right=True) - 1 + first_chunks[-1])
        num_tokens += memory.num_tokens
        first_chunks.append(first_chunks[-1] + memory.num_chunks)
    return Places(spans, torch.cat(tokens), torch.cat(chunks), first_chunks)


def _token_starts(memories: Sequence[DocumentMemory]) -> list[int]:
    """The first token of every chunk and the end of the last, counted over all memories."""
    return list(accumulate((chunk.num_tokens for memory in memories for chunk in memory.chunks), initial=0))


def _spread(chunks: Sequence[int], looks: Sequence[Tensor], starts: Sequence[int]) -> Tensor:
    """Token scores over all memories from those of `chunks`: each head relative to its maximum, summed and smoothed.

    Args:
        looks: float32 [heads, chunk_len] for each of `chunks`.
    """
    largest = torch.stack([look.amax(dim=1) for look in looks]).amax(dim=0).clamp_min(1e-30)
    spread = torch.zeros(starts[-1])
    for chunk, look in zip(chunks, looks, strict=True):
        spread[starts[chunk] : starts[chunk] + look.shape[1]] = (look / largest[:, None]).sum(dim=0)
    padded = functional.pad(spread, (POOL_WIDTH // 2, POOL_WIDTH - POOL_WIDTH // 2 - 1))
    return functional.avg_pool1d(padded[None, None], POOL_WIDTH, stride=1)[0, 0]


def _in_windows(spread: Tensor, places: Places) -> Tensor:
    """The logarithm of each window's maximum, relative to the largest of all."""
    largest = torch.stack([spread[first:last].max() for first, last in places.tokens.tolist()])
    return torch.log(largest / largest.max().clamp_min(1e-30) + FLOOR)
