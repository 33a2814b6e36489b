"""Finding, slowly: every signal of every window by its formula, from transformers' own attention over all chunks.

For documents of ASCII text and a tokenizer with a token for each byte, so that a token's number is its character's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from focusdoc import FocusEngine
from focusdoc.decoding.looking import POOL_WIDTH, retrieval_scores
from focusdoc.decoding.prompt import question_prompt
from focusdoc.memory.chunk_memory import DocumentMemory
from focusdoc.readers.finding import FLOOR, WEIGHTS
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
    slow = IncrementalReference(engine.base.model, engine.require_adapter(), chunks)
    slow.start(prompt, prompt)
    looked = torch.cat([mass * look for mass, look in zip(slow.mass, slow.looks, strict=True)])
    taken = [torch.zeros(len(looked))]
    for layer, head in heads:
        own = [
            _head_look(engine, chunk + prompt, len(chunk), (first, first + len(asked)), layer, head) for chunk in chunks
        ]
        taken.append(torch.cat(own) / max(float(look.max()) for look in own))
    found: list[list[float]] = [[], [], []]
    begin = 0
    for text in texts:
        spans = cut(text)
        for signal, spread in zip(found, (looked / looked.max(), torch.stack(taken).sum(dim=0)), strict=False):
            near = [
                float(spread[max(0, at - POOL_WIDTH // 2) : at + POOL_WIDTH // 2].sum()) / POOL_WIDTH
                for at in range(len(spread))
            ]
            signal += [max(near[begin + start : begin + end]) for start, end in spans]
        found[2] += _bm25([text[start:end] for start, end in spans], question)
        begin += len(text)
    looks, retrieved, words = found
    return torch.tensor(
        [
            WEIGHTS[0] * math.log(look / max(looks) + FLOOR)
            + (WEIGHTS[1] * math.log(own / max(retrieved) + FLOOR) if heads else 0)
            + WEIGHTS[2] * word / (max(words) or 1)
            for look, own, word in zip(looks, retrieved, words, strict=True)
        ]
    )


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
