"""Answering in words: the token loop with its text streamed and its sources found."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor

from focusdoc.config import GenerationConfig
from focusdoc.decoding.answer import Answer, Source, TextPiece, Timings, Usage
from focusdoc.decoding.attribution import chunk_shares, find_sources
from focusdoc.decoding.generation import AnswerDecoder, TokenLoop
from focusdoc.decoding.text import TextStream
from focusdoc.memory.chunk_memory import DocumentMemory


def stream_answer(
    decoder: AnswerDecoder,
    memories: Sequence[DocumentMemory],
    local_ids: Sequence[int],
    prompt_ids: Sequence[int],
    settings: GenerationConfig,
    tokenizer: Any,
    *,
    max_sources: int = 3,
    cancel: threading.Event | None = None,
) -> Generator[TextPiece, None, None]:
    """Yield the answer's text as it comes; the last piece carries the whole `Answer`.

    Args:
        decoder: fresh, over the chunks of `memories` in their order.
        local_ids, prompt_ids: see `AnswerDecoder.start`.
        max_sources: at most this many sources.
    """
    begun = time.perf_counter()
    logits = decoder.start(local_ids, prompt_ids)
    first = time.perf_counter()
    loop = TokenLoop(
        decoder, logits, settings, history=local_ids, eos_token_ids=decoder.base.eos_token_ids, cancel=cancel
    )
    text = TextStream(tokenizer, settings.stop)
    token_ids: list[int] = []
    masses: list[Tensor] = []
    for step in loop:
        if step.is_end:
            break
        token_ids.append(step.token)
        masses.append(decoder.candidate_mass)
        if piece := text.add(step.token):
            yield TextPiece(piece)
        if text.stopped:
            loop.finish_reason = "stop"
            break
    rest = text.finish()
    timings = Timings(first - begun, time.perf_counter() - first)
    sources: tuple[Source, ...] = ()
    shares: tuple[float, ...] = ()
    if token_ids:
        fed = [prompt_ids[-1], *token_ids[:-1]]
        paid = torch.stack(masses).cpu()
        shares = tuple(chunk_shares(paid).tolist())
        sources = find_sources(decoder, memories, fed, paid, prompt_len=len(prompt_ids), limit=max_sources)
    document_tokens = sum(memory.num_tokens for memory in memories)
    usage = Usage(document_tokens, decoder.num_chunks, len(local_ids), len(token_ids))
    yield TextPiece(rest, Answer(text.text, sources, usage, timings, tuple(token_ids), loop.finish_reason, shares))
