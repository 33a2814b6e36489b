"""The decoding state of a question: the tails behind the chunks, and the local context with its candidates.

Chunks that got no attention from the first local token can be inactive in later steps (`FocusConfig.active_chunks`):
they are neither read nor condensed, so a step over a book costs no more than one over its relevant chunks. This is an
approximation: chunks that only a later token would have attended to are missed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from focusdoc.config import ActiveChunks
from focusdoc.errors import MemoryShortageError
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.plan import free_bytes
from focusdoc.modeling.base import BaseModel

#: Tails grow by this many tokens at a time.
TAIL_STEP = 64
#: ``"auto"`` keeps the chunks with this share of the first token's attention mass,
AUTO_SHARE = 0.95
#: and at least this many.
AUTO_MIN_CHUNKS = 8


@dataclass(slots=True)
class ChunkGroup:
    """Consecutive chunks of one length with their tails.

    Attributes:
        block: the chunks' stored KV, read-only.
        tail_keys, tail_values: KV behind the chunks, [num_layers, num_chunks, num_kv_heads, room, head_dim]; it grows
            with the answer.
        first: index of the group's first chunk among all chunks.
    """

    block: MemoryBlock
    tail_keys: Tensor
    tail_values: Tensor
    first: int

    @classmethod
    def of(cls, block: MemoryBlock, start: int, stop: int, first: int, room: int, dtype: torch.dtype) -> ChunkGroup:
        """Chunks `start` to `stop` of `block`, with tails of capacity `room` in `dtype`."""
        block = block.chunks(start, stop)
        shape = (*block.keys.shape[:3], room, block.keys.shape[4])
        keys, values = (torch.empty(shape, dtype=dtype, device=block.device) for _ in range(2))
        return cls(block, keys, values, first)

    @property
    def room(self) -> int:
        """Capacity of a tail in tokens."""
        return self.tail_keys.shape[3]

    def grow(self, tokens: int) -> None:
        """Add capacity for `tokens` to every tail, keeping its contents."""
        extra = self.tail_keys.new_empty((*self.tail_keys.shape[:3], tokens, self.tail_keys.shape[4]))
        self.tail_keys = torch.cat((self.tail_keys, extra), dim=3)
        self.tail_values = torch.cat((self.tail_values, extra), dim=3)

    @property
    def num_chunks(self) -> int:
        """Chunks in the group."""
        return self.block.num_chunks

    @property
    def chunk_len(self) -> int:
        """Tokens of each chunk."""
        return self.block.chunk_len

    @property
    def span(self) -> slice:
        """The group's chunks among all chunks."""
        return slice(self.first, self.first + self.num_chunks)


@dataclass(slots=True)
class LocalContext:
    """KV that the local rows attend to: k candidate slots, then the local tokens.

    Attributes:
        keys, values: [num_layers, num_kv_heads, num_candidates + room, head_dim].
        num_candidates: k, the number of chunks.
        length: local tokens held so far.
    """

    keys: Tensor
    values: Tensor
    num_candidates: int
    length: int = 0

    @classmethod
    def empty(cls, base: BaseModel, num_candidates: int, room: int) -> LocalContext:
        """An empty context with capacity for `room` local tokens, in the dtype and on the device of `base`."""
        shape = (base.num_layers, base.num_kv_heads, num_candidates + room, base.head_dim)
        keys, values = (torch.empty(shape, dtype=base.dtype, device=base.device) for _ in range(2))
        return cls(keys, values, num_candidates)


def check_free_memory(base: BaseModel, num_chunks: int, tokens: int) -> None:
    """Check that `tokens` more behind each of `num_chunks` chunks fit in memory.

    Raises:
        MemoryShortageError: they do not; the message gives the bytes needed and free.
    """
    needed, free = num_chunks * tokens * base.kv_bytes_per_token, free_bytes(base.device)
    if needed > free:
        raise MemoryShortageError(
            f"{tokens} tokens of question and answer behind each of {num_chunks} chunks take {needed:,} bytes, but "
            f"{free:,} are free; close other programs, ask fewer documents at once, or raise chunk_size."
        )


def max_question_batch(base: BaseModel, num_chunks: int, longest_prompt: int, max_new_tokens: int) -> int:
    """How many questions with complete answers fit in free memory at once; at least 1."""
    of_one = num_chunks * (longest_prompt + max_new_tokens) * base.kv_bytes_per_token
    return max(1, free_bytes(base.device) // max(1, of_one))


@dataclass(frozen=True, slots=True)
class QuestionRows:
    """The rows of a dynamic prompt that hold the question, and the retrieval heads to record for them.

    Attributes:
        first, last: the question is ``prompt_ids[first:last]``.
        heads: the base model's retrieval heads (arXiv 2404.15574) as sorted (layer, head) pairs.
    """

    first: int
    last: int
    heads: tuple[tuple[int, int], ...] = ()

    def heads_of(self, layer: int) -> list[int]:
        """The retrieval heads of a layer."""
        return [head for of, head in self.heads if of == layer]


def question_rows(
    prompt_ids: Sequence[int], question_ids: Sequence[int], heads: tuple[tuple[int, int], ...]
) -> QuestionRows:
    """The last rows of a prompt that match the question's tokens; all rows if there is no match."""
    length, question = len(question_ids), list(question_ids)
    for first in range(len(prompt_ids) - length, -1, -1):
        if length and list(prompt_ids[first : first + length]) == question:
            return QuestionRows(first, first + length, heads)
    return QuestionRows(0, len(prompt_ids), heads)


def choose_active(mass: Tensor, active: ActiveChunks) -> list[int]:
    """The chunks that stay active, in order.

    Args:
        mass: attention mass of each chunk, float32 [num_chunks].
        active: a number of chunks, or ``"auto"``; ``"all"`` keeps all.
    """
    if active == "all":
        return list(range(len(mass)))
    ranked = mass.argsort(descending=True)
    if active == "auto":
        held = mass[ranked].cumsum(0) / mass.sum().clamp_min(torch.finfo(torch.float32).tiny)
        active = max(AUTO_MIN_CHUNKS, int((held < AUTO_SHARE).sum()) + 1)
    chosen: list[int] = ranked[:active].sort().values.tolist()
    return chosen


def select_groups(groups: Sequence[ChunkGroup], active: Sequence[int]) -> Iterator[ChunkGroup]:
    """The `active` chunks of `groups` with their tails, copied so that each group stays contiguous."""
    slot = 0
    for group in groups:
        inside = [index - group.first for index in active if index in range(group.span.start, group.span.stop)]
        if inside:
            at = torch.tensor(inside, device=group.tail_keys.device)
            yield ChunkGroup(
                block=group.block.select(at),
                tail_keys=group.tail_keys.index_select(1, at),
                tail_values=group.tail_values.index_select(1, at),
                first=slot,
            )
            slot += len(inside)


def shrink_local(local: LocalContext, num_candidates: int) -> LocalContext:
    """The local context with fewer candidate slots; the next step overwrites their contents."""
    keys, values = (states[:, :, local.num_candidates - num_candidates :] for states in (local.keys, local.values))
    return LocalContext(keys, values, num_candidates, local.length)
