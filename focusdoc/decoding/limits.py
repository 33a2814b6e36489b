"""Whether what stands behind the chunks fits into free memory."""

from __future__ import annotations

from focusdoc.errors import MemoryShortageError
from focusdoc.memory.room import free_bytes
from focusdoc.modeling.base import BaseModel

#: Tails get room for so many new tokens at a time, as the answer goes on.
TAIL_STEP = 64


def check_bytes(base: BaseModel, num_chunks: int, tokens: int) -> None:
    """Make sure that `tokens` more behind each of `num_chunks` chunks fit into memory.

    Raises:
        MemoryShortageError: they do not; the message tells the bytes needed and free.
    """
    needed, free = num_chunks * tokens * base.kv_bytes_per_token, free_bytes(base.device)
    if needed > free:
        raise MemoryShortageError(
            f"{tokens} tokens of question and answer behind each of {num_chunks} chunks take {needed:,} bytes, but "
            f"{free:,} are free; close other programs, ask fewer documents at once, or raise chunk_size."
        )


def questions_at_once(base: BaseModel, num_chunks: int, longest_prompt: int, max_new_tokens: int) -> int:
    """How many questions with whole answers fit into free memory side by side; at least 1."""
    of_one = num_chunks * (longest_prompt + max_new_tokens) * base.kv_bytes_per_token
    return max(1, free_bytes(base.device) // max(1, of_one))
