"""Whether a question fits: the positions a base model knows against what one question over a memory takes."""

from __future__ import annotations

from focusdoc.config import FocusConfig
from focusdoc.errors import PromptTooLongError
from focusdoc.modeling.base import BaseModel


def check_room(
    base: BaseModel,
    config: FocusConfig,
    *,
    longest_chunk: int,
    num_chunks: int,
    local_len: int,
    max_new_tokens: int,
) -> None:
    """Make sure that chunks, candidates, prompt and answer keep within the positions that `base` knows.

    Args:
        longest_chunk: tokens of the longest chunk.
        num_chunks: chunks of all memories, and so candidates.
        local_len: tokens of the local context.

    Raises:
        PromptTooLongError: they do not; the message says what to lower or raise.
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


def positions_left(base: BaseModel, config: FocusConfig, num_chunks: int, local_len: int, max_new_tokens: int) -> int:
    """Positions that `base` has left over behind chunks or candidates, local context and answer; below 0, none fit."""
    if config.direct:
        in_front = config.anchor + (config.chunk_size or 0) if num_chunks else 0
    else:
        in_front = min(1, num_chunks) if config.candidate_positions == "shared" else num_chunks
    return base.context_length - in_front - local_len - max_new_tokens
