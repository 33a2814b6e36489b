"""Answering in words without a memory: the base model's own decoding, its text streamed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

from focusdoc.config import GenerationConfig
from focusdoc.decoding.answer import Answer, TextPiece, Timings, Usage
from focusdoc.decoding.answering import Asked, Way
from focusdoc.decoding.generation import TokenLoop
from focusdoc.decoding.plain import PlainDecoder, PrefixCache
from focusdoc.decoding.text import TextStream
from focusdoc.errors import PromptTooLongError
from focusdoc.modeling.base import BaseModel


class Plain(Way):
    """The base model answers what needs no memory."""

    def __init__(self, base: BaseModel) -> None:
        self.base = base

    def check(self, asked: Asked) -> None:
        """See `Way.check`.

        Raises:
            PromptTooLongError: prompt and answer do not fit into the model's positions.
        """
        length, new, limit = len(asked.local_ids), asked.settings.max_new_tokens, self.base.context_length
        if length + new > limit:
            raise PromptTooLongError(
                f"The prompt's {length} tokens and {new} new ones are more than the {limit} positions of "
                f"{self.base.name}; lower max_new_tokens."
            )

    def stream(self, asked: Asked) -> Generator[TextPiece, None, None]:
        """See `Way.stream`."""
        return stream_plain_answer(self.base, asked.local_ids, asked.settings, cancel=asked.cancel)


def stream_plain_answer(
    base: BaseModel,
    ids: Sequence[int],
    settings: GenerationConfig,
    *,
    cancel: threading.Event | None = None,
    prefixes: PrefixCache | None = None,
    again: Callable[[str], Sequence[int] | None] | None = None,
) -> Generator[TextPiece, None, None]:
    """Yield the text as it comes; the last piece carries the whole `Answer`, which has no sources.

    Args:
        base: with a tokenizer.
        ids: the prompt, as the model is to see it.
        cancel: set it to end the answer after the current token.
        prefixes: see `PlainDecoder`.
        again: given the answer so far, the prompt that it goes on behind from here, or None for the one it has.
    """
    begun = time.perf_counter()
    tokenizer: Any = base.tokenizer
    decoder = PlainDecoder(base, prefixes, None if again is None else lambda ids: again(tokenizer.decode(ids)))
    logits = decoder.start(ids)
    first = time.perf_counter()
    loop = TokenLoop(decoder, logits, settings, history=ids, eos_token_ids=base.eos_token_ids, cancel=cancel)
    text = TextStream(tokenizer, settings.stop)
    token_ids: list[int] = []
    likelihood = 0.0
    for step in loop:
        likelihood += float(step.logits.log_softmax(dim=-1)[step.token])
        if step.is_end:
            break
        token_ids.append(step.token)
        if piece := text.add(step.token):
            yield TextPiece(piece)
        if text.stopped:
            loop.finish_reason = "stop"
            break
    decoder.close()
    rest = text.finish()
    timings = Timings(first - begun, time.perf_counter() - first)
    usage = Usage(0, 0, len(ids), len(token_ids))
    answer = Answer(text.text, (), usage, timings, tuple(token_ids), loop.finish_reason, log_likelihood=likelihood)
    yield TextPiece(rest, answer)
