"""Whether a question fits: what it takes over a memory, against the positions of the base model and free memory."""

from __future__ import annotations

from focusdoc.config import FocusConfig
from focusdoc.errors import MemoryShortageError, PromptTooLongError
from focusdoc.memory.room import free_bytes
from focusdoc.modeling.base import BaseModel

#: Tails get room for so many new tokens at a time, as the answer goes on.
TAIL_STEP = 64


def check_room(
    base: BaseModel,
    config: FocusConfig,
    *,
    longest_chunk: int,
    num_chunks: int,
    local_len: int,
    max_new_tokens: int,
) -> None:
    """Make sure that chunks, candidates, prompt and answer keep within the positions that `base` knows, and that the
    prompt and the first new tokens behind all chunks keep within free memory.

    Args:
        longest_chunk: tokens of the longest chunk.
        num_chunks: chunks of all memories, and so candidates.
        local_len: tokens of the local context.

    Raises:
        PromptTooLongError, MemoryShortageError: they do not; the message says what to lower or raise.
    """
    limit = base.context_length
    behind = (
        0 if config.direct or not num_chunks else longest_chunk + min(local_len, config.prompt_window) + max_new_tokens
    )
    if behind > limit:
        raise PromptTooLongError(
            f"A chunk with the question and {max_new_tokens} new tokens behind it takes {behind} positions, but "
            f"{base.name} has {limit}; lower chunk_size, prompt_window or max_new_tokens."
        )
    if positions_left(base, config, num_chunks, local_len, max_new_tokens) < 0:
        in_front = limit - positions_left(base, config, num_chunks, 0, 0)
        if config.direct:
            told, remedy = f"The positions of {num_chunks} chunks side by side", "lower chunk_size or max_new_tokens"
        else:
            told, remedy = f"{num_chunks} candidates", "raise chunk_size or lower max_new_tokens"
        raise PromptTooLongError(
            f"{told}, {local_len} local tokens and {max_new_tokens} new ones take "
            f"{in_front + local_len + max_new_tokens} positions, but {base.name} has {limit}; {remedy}."
        )
    if not config.direct:
        prompt_len = min(local_len, config.prompt_window)
        check_bytes(base, num_chunks, prompt_len + min(TAIL_STEP, max_new_tokens))


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


def positions_left(base: BaseModel, config: FocusConfig, num_chunks: int, local_len: int, max_new_tokens: int) -> int:
    """Positions that `base` has left over behind chunks or candidates, local context and answer; below 0, none fit."""
    if config.direct:
        in_front = config.anchor + (config.chunk_size or 0) if num_chunks else 0
    else:
        in_front = min(1, num_chunks) if config.candidate_positions == "shared" else num_chunks
    return base.context_length - in_front - local_len - max_new_tokens
