"""A memory of held-out novels in which single chunks can be replaced by chunks with planted facts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from focusdoc import DocumentMemory, FocusEngine, load
from focusdoc.decoding.prompt import encode_text
from focusdoc.documents import tokenize
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.reading import read_chunks
from focusdoc.training.facts import Fact

NOVELS = (
    "2775_the_good_soldier",
    "36_the_war_of_the_worlds",
    "550_silas_marner",
    "105_persuasion",
    "768_wuthering_heights",
)


class Novel:
    """A memory of `num_tokens` tokens of novels."""

    def __init__(self, engine: FocusEngine, data: Path, num_tokens: int) -> None:
        self.engine = engine
        texts = [load(data / "books" / f"{name}.txt").text for name in NOVELS]
        ids: list[int] = []
        for text in texts:
            ids += tokenize(engine.base.tokenizer, text).token_ids
            if len(ids) >= num_tokens:
                break
        size = engine.chunk_size
        self.chunks = [ids[start : start + size] for start in range(0, num_tokens - size + 1, size)]
        self.block = self._read([token for chunk in self.chunks for token in chunk])

    def planted(self, facts: list[Fact], rng: random.Random) -> DocumentMemory:
        """The memory with each of `facts` planted in a different random chunk."""
        places = sorted(rng.sample(range(len(self.chunks)), min(len(facts), len(self.chunks))))
        blocks: list[MemoryBlock] = []
        chunks = list(self.chunks)
        done = 0
        for place, fact in zip(places, rng.sample(facts, len(places)), strict=True):
            chunk = self.chunks[place]
            statement = encode_text(self.engine.base.tokenizer, f" {fact.statement} ")
            at = rng.randint(0, len(chunk) - len(statement))
            chunks[place] = (chunk[:at] + statement + chunk[at:])[: len(chunk)]
            blocks += [*self._slice(done, place), self._read(chunks[place])]
            done = place + 1
        return bare_memory(self.engine, chunks, [*blocks, *self._slice(done, len(chunks))])

    def _slice(self, start: int, stop: int) -> Iterator[MemoryBlock]:
        if stop > start:
            yield self.block.chunks(start, stop)

    def _read(self, ids: list[int]) -> MemoryBlock:
        (block,) = read_tokens(self.engine, ids)
        return block


def bare_memory(engine: FocusEngine, chunks: list[list[int]], blocks: list[MemoryBlock]) -> DocumentMemory:
    """A memory without a document, so that answers have no sources."""
    return DocumentMemory(tuple(chain.from_iterable(chunks)), (), tuple(blocks), engine.maker)


def read_tokens(engine: FocusEngine, ids: list[int]) -> tuple[MemoryBlock, ...]:
    """Read token ids into blocks."""
    memory_dtype = "int8" if engine.config.memory_dtype == "int8" else "model"
    return read_chunks(engine.base, ids, engine.chunk_size, engine.kernel, memory_dtype=memory_dtype)


def sized(engine: FocusEngine, chunk_size: int) -> FocusEngine:
    """The same engine with another chunk size."""
    return FocusEngine(engine.base, engine.adapter, replace(engine.config, chunk_size=chunk_size))
