"""Finding, slowly: every signal of every window by its formula, from transformers' own attention over all chunks.

For documents of ASCII text and a tokenizer with a token for each byte, so that a token's number is its character's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from focusdoc import FocusEngine
from focusdoc.decoding.looking import FLOOR, POOL_WIDTH, retrieval_scores
from focusdoc.decoding.prompt import question_prompt
from focusdoc.memory.chunk_memory import DocumentMemory
from focusdoc.modeling.adapter import Adapter
from focusdoc.modeling.finding_weights import FindingWeights
from focusdoc.readers.finding import HEADS, LOOKS, WEIGHTS, WORDS
from focusdoc.readers.windows import cut, words_of
from incremental_reference import IncrementalReference


def scores(
    engine: FocusEngine, memories: Sequence[DocumentMemory], question: str, heads: Sequence[tuple[int, int]]
) -> Tensor:
    """The score of every window of the documents, one after another; every chunk is looked into."""
    texts = [memory.document.text for memory in memories if memory.document is not None]
    chunks = [
        list(memory.token_ids[each.token_start : each.token_end]) for memory in memories for each in memory.chunks
    ]
    prompt = question_prompt(engine.base.tokenizer, question)
    asked = engine.base.tokenizer.encode(question, add_special_tokens=False)
    first = next(at for at in range(len(prompt)) if prompt[at : at + len(asked)] == asked)
    assert engine.adapter is not None
    trained = engine.adapter.finding
    if trained is not None:
        return _trained_scores(engine, engine.adapter, trained, chunks, prompt, texts, question)
    slow = IncrementalReference(engine.base.model, engine.require_adapter(), chunks)
    slow.start(prompt, prompt)
    looked = torch.cat([mass * look for mass, look in zip(slow.mass, slow.looks, strict=True)])
    taken = [torch.zeros(len(looked))]
    for layer, head in heads:
        own = [
            _head_look(engine, chunk + prompt, len(chunk), (first, first + len(asked)), layer, head) for chunk in chunks
        ]
        taken.append(torch.cat(own) / max(float(look.max()) for look in own))
    looks, retrieved = _in_windows(looked / looked.max(), texts), _in_windows(torch.stack(taken).sum(dim=0), texts)
    words = _words(texts, question)
    return torch.tensor(
        [
            WEIGHTS[LOOKS] * math.log(look / max(looks) + FLOOR)
            + (WEIGHTS[HEADS] * math.log(own / max(retrieved) + FLOOR) if heads else 0)
            + WEIGHTS[WORDS] * word / (max(words) or 1)
            for look, own, word in zip(looks, retrieved, words, strict=True)
        ]
    )


def _trained_scores(
    engine: FocusEngine,
    adapter: Adapter,
    trained: FindingWeights,
    chunks: list[list[int]],
    prompt: list[int],
    texts: list[str],
    question: str,
) -> Tensor:
    """The scores with candidates that were trained to find."""
    layers = []
    for layer, weights in enumerate(engine.require_adapter()):
        added = {letter: [trained.added[f"layers.{layer}.{letter}.{part}"] for part in "ab"] for letter in weights}
        layers.append({letter: weight + added[letter][1] @ added[letter][0] for letter, weight in weights.items()})
    slow = IncrementalReference(engine.base.model, layers, chunks, heads=trained.heads)
    slow.start(prompt, prompt)
    looks, words = _in_windows(torch.cat(slow.looks), texts), _words(texts, question)
    relevances = [float((values * trained.relevance).sum()) for values in slow.values]
    chunk_of = [number for number, chunk in enumerate(chunks) for _ in chunk]
    middles = [begin + (start + end) // 2 for begin, start, end in _spans(texts)]
    return torch.tensor(
        [
            trained.signals[0] * math.log(look / max(looks) + FLOOR)
            + trained.signals[1] * relevances[chunk_of[middle]]
            + trained.signals[2] * word / (max(words) or 1)
            for look, middle, word in zip(looks, middles, words, strict=True)
        ]
    )


def _spans(texts: list[str]) -> list[tuple[int, int, int]]:
    """Of every window: where its text begins among all tokens, and its first and last character in that text."""
    begins = accumulate((len(text) for text in texts), initial=0)
    return [(begin, *span) for begin, text in zip(begins, texts, strict=False) for span in cut(text)]


def _in_windows(spread: Tensor, texts: list[str]) -> list[float]:
    """The largest of a signal's means around a token, for each window."""
    near = [
        float(spread[max(0, at - POOL_WIDTH // 2) : at + POOL_WIDTH // 2].sum()) / POOL_WIDTH
        for at in range(len(spread))
    ]
    return [max(near[begin + start : begin + end]) for begin, start, end in _spans(texts)]


def _words(texts: list[str], question: str) -> list[float]:
    return [each for text in texts for each in _bm25([text[start:end] for start, end in cut(text)], question)]


@torch.no_grad()
def _head_look(
    engine: FocusEngine, ids: list[int], chunk_len: int, rows: tuple[int, int], layer: int, head: int
) -> Tensor:
    """What one head takes from each token of a chunk for the rows of the question behind it."""
    output = engine.base.model(torch.tensor([ids]), output_attentions=True, use_cache=True)
    weights = output.attentions[layer][:, head : head + 1, chunk_len + rows[0] : chunk_len + rows[1], :chunk_len]
    values = output.past_key_values.layers[layer].values
    per_key = output.attentions[layer].shape[1] // values.shape[1]
    return retrieval_scores(weights, values[:, head // per_key : head // per_key + 1, :chunk_len])[0, 0].sum(dim=0)


def _bm25(windows: Sequence[str], question: str, k: float = 1.5, b: float = 0.75) -> list[float]:
    """Lucene's BM25 of each window."""
    words = words_of(windows)
    average = sum(map(len, words)) / len(words)

    def score(own: list[str]) -> float:
        total = 0.0
        for word in words_of([question])[0]:
            holders, count = sum(word in each for each in words), own.count(word)
            weight = math.log(1 + (len(words) - holders + 0.5) / (holders + 0.5)) if holders else 0.0
            total += weight * count / (count + k * (1 - b + b * len(own) / average))
        return total

    return [score(own) for own in words]
