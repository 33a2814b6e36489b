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
from focusdoc.decoding.generation import AnswerDecoder, Step, TokenLoop
from focusdoc.decoding.parallel import ParallelDecoder
from focusdoc.decoding.text import TextStream
from focusdoc.decoding.together import start_together, step_together
from focusdoc.memory.chunk_memory import DocumentMemory


class AnswerWriter:
    """One answer while it is written: its tokens, its text, and the attention that they paid to the chunks.

    Args:
        decoder: over the chunks of `memories` in their order.
        loop: chooses the tokens.
        begun: when the call began, by ``time.perf_counter``; the loop's first logits are there when this is made.
        max_sources: at most this many sources.
    """

    def __init__(
        self,
        decoder: AnswerDecoder,
        memories: Sequence[DocumentMemory],
        local_ids: Sequence[int],
        prompt_ids: Sequence[int],
        settings: GenerationConfig,
        tokenizer: Any,
        loop: TokenLoop,
        *,
        begun: float,
        max_sources: int,
    ) -> None:
        self._decoder = decoder
        self._memories = memories
        self._local_ids = local_ids
        self._prompt_ids = prompt_ids
        self._loop = loop
        self._begun = begun
        self._first = time.perf_counter()
        self._max_sources = max_sources
        self._text = TextStream(tokenizer, settings.stop)
        self._token_ids: list[int] = []
        self._masses: list[Tensor] = []

    def add(self, step: Step) -> str | None:
        """Take a step in, before its token is fed; return the text that is now certain, None where the answer ends."""
        if step.is_end:
            return None
        self._token_ids.append(step.token)
        self._masses.append(self._decoder.candidate_mass)
        return self._text.add(step.token)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        if self._text.stopped:
            self._loop.finish_reason = "stop"
        return self._text.stopped

    def finish(self) -> TextPiece:
        """The last piece, which carries the whole `Answer`."""
        rest = self._text.finish()
        timings = Timings(self._first - self._begun, time.perf_counter() - self._first)
        sources: tuple[Source, ...] = ()
        shares: tuple[float, ...] = ()
        ids, decoder = self._token_ids, self._decoder
        if ids:
            fed = [self._prompt_ids[-1], *ids[:-1]]
            paid = torch.stack(self._masses).cpu()
            shares = tuple(chunk_shares(paid).tolist())
            prompt_len = len(self._prompt_ids)
            sources = find_sources(decoder, self._memories, fed, paid, prompt_len=prompt_len, limit=self._max_sources)
        document_tokens = sum(memory.num_tokens for memory in self._memories)
        usage = Usage(document_tokens, decoder.num_chunks, len(self._local_ids), len(ids))
        reason = self._loop.finish_reason
        return TextPiece(rest, Answer(self._text.text, sources, usage, timings, tuple(ids), reason, shares))


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
    ends = decoder.base.eos_token_ids
    loop = TokenLoop(decoder, logits, settings, history=local_ids, eos_token_ids=ends, cancel=cancel)
    writer = AnswerWriter(
        decoder,
        memories,
        local_ids,
        prompt_ids,
        settings,
        tokenizer,
        loop,
        begun=begun,
        max_sources=max_sources,
    )
    for step in loop:
        piece = writer.add(step)
        if piece:
            yield TextPiece(piece)
        if piece is None or writer.stopped:
            break
    yield writer.finish()


def answer_together(
    decoders: Sequence[ParallelDecoder],
    memories: Sequence[DocumentMemory],
    questions: Sequence[tuple[list[int], list[int]]],
    settings: GenerationConfig,
    tokenizer: Any,
    *,
    max_sources: int = 3,
    cancel: threading.Event | None = None,
) -> list[Answer]:
    """Answer several questions over the same memories, all of them advancing in the same sweeps.

    Args:
        decoders: one for each question, fresh, over the chunks of `memories` in their order.
        questions: the local context and the dynamic prompt of each.
    """
    begun = time.perf_counter()
    logits = start_together(decoders, questions)
    loops, writers = [], []
    for decoder, (local_ids, prompt_ids), first in zip(decoders, questions, logits, strict=True):
        ends = decoder.base.eos_token_ids
        loop = TokenLoop(decoder, first, settings, history=local_ids, eos_token_ids=ends, cancel=cancel)
        loops.append(loop)
        writers.append(
            AnswerWriter(
                decoder,
                memories,
                local_ids,
                prompt_ids,
                settings,
                tokenizer,
                loop,
                begun=begun,
                max_sources=max_sources,
            )
        )
    answers: list[Answer | None] = [None] * len(decoders)
    running = list(range(len(decoders)))
    while running:
        fed: list[tuple[int, int]] = []
        for index in running:
            step = loops[index].take(logits[index])
            goes_on = step is not None and writers[index].add(step) is not None and not writers[index].stopped
            if step is not None and goes_on and not loops[index].over:
                fed.append((index, step.token))
            else:
                answers[index] = writers[index].finish().answer
        running = [index for index, _ in fed]
        found = step_together([decoders[index] for index in running], [token for _, token in fed]) if fed else []
        for index, next_logits in zip(running, found, strict=True):
            logits[index] = next_logits
    return [answer for answer in answers if answer is not None]
