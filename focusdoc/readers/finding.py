"""Finding: which windows of the documents hold what a question asks.

Three signals make one score:

- where the candidates looked, weighted by the attention that the local context paid to them (what candidates are for;
  FocusLLM, section 3.1);
- what the base model's own retrieval heads take from each token for the question, which runs behind every chunk as the
  dynamic prompt in any case (arXiv 2404.15574, 2506.09944);
- how well a window's words match the question's (BM25).

A window's score is a weighted sum: of the logarithms of the first two, against the largest of all windows, and of
BM25's score against the best one. So scores are the logits of a softmax over all windows, and the weights are learnt
as such (benchmarks/finding.py). Tried without gain beside these: the likelihood of the question behind each chunk, and
the chunks' attention masses as a signal of their own (docs/reading.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional

from focusdoc.decoding.generation import AnswerDecoder
from focusdoc.decoding.looking import NEAR
from focusdoc.decoding.prompt import Asked, encode_text
from focusdoc.decoding.state import question_rows
from focusdoc.errors import ConfigError
from focusdoc.memory.chunk_memory import DocumentMemory
from focusdoc.readers.windows import Windows, words_of

#: Chunks that are looked into, at most.
LOOKED = 32
#: Against 1 for the largest, what a signal of nothing counts as; differences below it tell nothing.
FLOOR = 0.02
#: The names of the signals, in the order of their weights.
SIGNALS = ("looked", "heads", "words")
LOOKS, HEADS, WORDS = range(3)
#: What each signal counts for.
WEIGHTS = (1.25, 0.48, 4.8)


@dataclass(frozen=True, slots=True)
class Places:
    """The windows of several memories, one after another.

    Attributes:
        spans: (number of the memory, first character, behind the last) of each.
        tokens: first token and behind the last, counted through all memories, int64 [windows, 2].
        chunks: the chunk that holds its middle, counted through all memories, int64 [windows].
        first_chunks: the first chunk of each memory, so counted.
    """

    spans: list[tuple[int, int, int]]
    tokens: Tensor
    chunks: Tensor
    first_chunks: list[int]

    def chunk_of(self, window: int) -> int:
        """The chunk of a window in its own document."""
        return int(self.chunks[window]) - self.first_chunks[self.spans[window][0]]


@dataclass(frozen=True, slots=True)
class Found:
    """What a question makes of the windows.

    Attributes:
        signals: float32 [windows, signals], in the order of `SIGNALS`; each against its largest value.
        scores: float32 [windows]: their weighted sum.
        look_peak: what the candidates looked at most got, before it was set against itself.
        words_peak: BM25's score of the best window for each word of the question.
    """

    places: Places
    signals: Tensor
    scores: Tensor
    look_peak: float = 0.0
    words_peak: float = 0.0


class Finder:
    """Ranks the windows of documents for a question.

    Args:
        heads: the base model's retrieval heads, (layer, head) pairs; none where they are not known.
        weights: of the signals.
    """

    def __init__(self, heads: Iterable[tuple[int, int]] = (), weights: Sequence[float] = WEIGHTS) -> None:
        self._heads = tuple(sorted(heads))
        self._weights = torch.tensor(weights)
        #: Of each memory that was asked; they end with it.
        self._windows: WeakKeyDictionary[DocumentMemory, Windows] = WeakKeyDictionary()

    def find(self, decoder: AnswerDecoder, asked: Asked, question: str) -> Found:
        """What `question` makes of all windows of the memories that are asked.

        Args:
            decoder: fresh, over the chunks of the memories; it is started here.
            question: what the dynamic prompt ends with; where it does not hold it as it is, all of it is the question.

        Raises:
            ConfigError: a memory was made from bare token ids.
        """
        memories, prompt_ids = asked.memories, asked.prompt_ids
        windows = [self._windows_of(memory) for memory in memories]
        places = places_of(memories, windows)
        with decoder.base.tokenizer_lock:
            question_ids = encode_text(asked.tokenizer, question)
        decoder.look(asked.local_ids, prompt_ids, question_rows(prompt_ids, question_ids, self._heads))
        mass = decoder.candidate_mass.cpu()
        words = torch.cat([torch.from_numpy(each.matches(question)) for each in windows])
        signals = torch.zeros(len(words), len(SIGNALS))
        signals[:, WORDS] = words / words.max().clamp_min(1e-30)
        # A chunk is worth a look for its attention mass, or for the words of one of its windows.
        signals[:, LOOKS] = torch.log(mass / mass.max().clamp_min(1e-30) + FLOOR)[places.chunks]
        promise = torch.full((decoder.num_chunks,), -torch.inf)
        promise.scatter_reduce_(0, places.chunks, signals @ self._weights, "amax")
        chunks: list[int] = promise.argsort(descending=True)[:LOOKED].tolist()
        starts = _token_starts(memories)
        looked = decoder.look_inside(chunks, prompt_ids[-1:], mass[None], prompt_len=len(prompt_ids))
        signals[:, LOOKS] = _in_windows(_spread(chunks, [look[None] for look in looked], starts), places)
        if taken := decoder.look_for_question(chunks):
            signals[:, HEADS] = _in_windows(_spread(chunks, taken, starts), places)
        look_peak = max(float(look.max()) for look in looked)
        words_peak = float(words.max()) / max(1, len(words_of([question])[0]))
        return Found(places, signals, signals @ self._weights, look_peak, words_peak)

    def _windows_of(self, memory: DocumentMemory) -> Windows:
        if memory.document is None or memory.tokenized is None:
            raise ConfigError(
                "A reader needs the words of a document; read it with engine.read, not as bare token ids."
            )
        if memory not in self._windows:
            self._windows[memory] = Windows(memory.document.text)
        return self._windows[memory]


def places_of(memories: Sequence[DocumentMemory], windows: Sequence[Windows]) -> Places:
    """The windows of `memories`, one after another."""
    spans: list[tuple[int, int, int]] = []
    tokens, chunks = [], []
    num_tokens, first_chunks = 0, [0]
    for number, (memory, own) in enumerate(zip(memories, windows, strict=True)):
        assert memory.tokenized is not None  # the finder has refused it
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
    """The first token of every chunk of all memories and behind the last one, counted through all memories."""
    return list(accumulate((chunk.num_tokens for memory in memories for chunk in memory.chunks), initial=0))


def _spread(chunks: Sequence[int], looks: Sequence[Tensor], starts: Sequence[int]) -> Tensor:
    """One look over all tokens, from that of `chunks`: each head against its own largest value, then added up.

    Args:
        looks: float32 [heads, chunk_len] of each of `chunks`.
    """
    largest = torch.stack([look.amax(dim=1) for look in looks]).amax(dim=0).clamp_min(1e-30)
    spread = torch.zeros(starts[-1])
    for chunk, look in zip(chunks, looks, strict=True):
        spread[starts[chunk] : starts[chunk] + look.shape[1]] = (look / largest[:, None]).sum(dim=0)
    padded = functional.pad(spread, (NEAR // 2, NEAR - NEAR // 2 - 1))
    return functional.avg_pool1d(padded[None, None], NEAR, stride=1)[0, 0]


def _in_windows(spread: Tensor, places: Places) -> Tensor:
    """The logarithm of the largest value in every window, against the largest of all."""
    largest = torch.stack([spread[first:last].max() for first, last in places.tokens.tolist()])
    return torch.log(largest / largest.max().clamp_min(1e-30) + FLOOR)
