"""The ranges that the shape of a training sample is drawn from."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from focusdoc.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SampleShape:
    """The ranges a sample's shape is drawn from.

    Both are drawn log-uniformly, so that many small and few large chunks are alike likely.

    Attributes:
        min_chunk_size, max_chunk_size: tokens of a chunk.
        max_chunks: chunks of a sample.
        max_tokens: chunk tokens of a sample that are read for it.
        prompts: prompts that share the chunks of a sample, at most.
        targets: target tokens of a continuation or reconstruction prompt.
        max_reused: of how many earlier samples the chunks may join a sample, read once and used again.
        max_rows: rows that the prompts of a sample may take, all chunks together; a prompt takes, in every chunk, one
            row for each of its tokens and two more (forward and backward of its candidates) for each target. The first
            prompt is always made. None for no bound.
        max_local: tokens of the local context of a continuation prompt.
        quoted: share of the questions that have passages of the chunks in front of them in the local context.
    """

    min_chunk_size: int = 64
    max_chunk_size: int = 2048
    max_chunks: int = 128
    max_tokens: int = 2048
    prompts: int = 16
    targets: int = 16
    max_reused: int = 6
    max_rows: int | None = 4000
    max_local: int = 512
    quoted: float = 0.4

    def __post_init__(self) -> None:
        # A chunk of one token has no stretch to reconstruct.
        smallest = {"min_chunk_size": 2, "max_chunks": 1, "prompts": 1, "targets": 1, "max_reused": 0, "max_local": 16}
        for name, least in smallest.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if not 0 <= self.quoted <= 1:
            raise ConfigError(f"quoted is {self.quoted}; it must be a share from 0 to 1.")
        if self.max_rows is not None and self.max_rows < 1:
            raise ConfigError(f"max_rows is {self.max_rows}; it must be at least 1, or None for no bound.")
        for name in ("max_chunk_size", "max_tokens"):
            if getattr(self, name) < self.min_chunk_size:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}; it must be at least min_chunk_size ({self.min_chunk_size})."
                )

    def draw(self, rng: random.Random) -> tuple[int, int]:
        """A chunk size and a number of chunks."""
        largest = min(self.max_chunk_size, self.max_tokens)
        chunk_size = round(self.min_chunk_size * (largest / self.min_chunk_size) ** rng.random())
        most = max(1, min(self.max_chunks, self.max_tokens // chunk_size))
        # The root leans towards many chunks: their number in training is what carries to length.
        return chunk_size, round(most ** math.sqrt(rng.random()))
