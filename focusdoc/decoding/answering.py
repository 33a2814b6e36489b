"""Answering in words: the token loop with its text streamed and its sources found."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from focusdoc.config import GenerationConfig
from focusdoc.decoding.answer import Answer, Source, TextPiece, Timings, Usage
from focusdoc.decoding.attribution import chunk_shares, find_sources
from focusdoc.decoding.generation import AnswerDecoder, Step, TokenLoop
from focusdoc.decoding.parallel import ParallelDecoder
from focusdoc.decoding.quoting import Quoting, quote
from focusdoc.decoding.text import TextStream
from focusdoc.decoding.together import start_together, step_together
from focusdoc.memory.chunk_memory import DocumentMemory


@dataclass(frozen=True, slots=True)
class Asked:
    """What an answer is asked for, and how.

    Attributes:
        memories: what the decoder is over, in its order.
        local_ids, prompt_ids: see `AnswerDecoder.start`.
        tokenizer: of the model.
        quoting: how passages join the local context; None for none.
        max_sources: at most this many sources.
        cancel: set it to end the answer after the current token.
    """

    memories: Sequence[DocumentMemory]
    local_ids: Sequence[int]
    prompt_ids: Sequence[int]
    settings: GenerationConfig
    tokenizer: Any
    quoting: Quoting | None = None
    max_sources: int = 3
    cancel: threading.Event | None = None


class AnswerWriter:
    """One answer while it is written: its tokens, its text, and the attention that they paid to the chunks.

    Passages are quoted when it is made, so that the next logits are those of the answer's first token.

    Args:
        decoder: as it stands after `start`, whose `logits` these are.
        begun: when the call began, by ``time.perf_counter``.

    Attributes:
        loop: chooses the tokens. logits: of the first one, float32 [vocab].
    """

    def __init__(self, decoder: AnswerDecoder, logits: Tensor, asked: Asked, *, begun: float) -> None:
        self._decoder = decoder
        self._asked = asked
        self._begun = begun
        self._quoted = 0
        #: The attention to the chunks that passages were chosen by. Behind them the answer reads mostly in the
        #: passages, and what it pays to candidates no longer tells where it comes from.
        self._first_look = decoder.candidate_mass
        if asked.quoting is not None and isinstance(decoder, ParallelDecoder):
            local_ids = quote(decoder, asked.memories, asked.quoting, asked.local_ids, asked.prompt_ids)
            self._quoted = len(local_ids) - len(asked.local_ids)
            logits = decoder.restart(local_ids) if self._quoted else logits
        self.logits = logits
        self.loop = TokenLoop(
            decoder,
            logits,
            asked.settings,
            history=asked.local_ids,
            eos_token_ids=decoder.base.eos_token_ids,
            cancel=asked.cancel,
        )
        self._first = time.perf_counter()
        self._text = TextStream(asked.tokenizer, asked.settings.stop)
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
            self.loop.finish_reason = "stop"
        return self._text.stopped

    def finish(self) -> TextPiece:
        """The last piece, which carries the whole `Answer`."""
        rest = self._text.finish()
        timings = Timings(self._first - self._begun, time.perf_counter() - self._first)
        sources: tuple[Source, ...] = ()
        shares: tuple[float, ...] = ()
        ids, decoder, asked = self._token_ids, self._decoder, self._asked
        if ids:
            fed = [asked.prompt_ids[-1], *ids[:-1]]
            paid = torch.stack(self._masses).cpu()
            if self._quoted:
                fed, paid = fed[:1], self._first_look[None].cpu()
            shares = tuple(chunk_shares(paid).tolist())
            prompt_len = len(asked.prompt_ids)
            sources = find_sources(decoder, asked.memories, fed, paid, prompt_len=prompt_len, limit=asked.max_sources)
        document_tokens = sum(memory.num_tokens for memory in asked.memories)
        usage = Usage(document_tokens, decoder.num_chunks, len(asked.local_ids), len(ids), quoted_tokens=self._quoted)
        reason = self.loop.finish_reason
        warnings = left_out_of(asked.memories)
        return TextPiece(rest, Answer(self._text.text, sources, usage, timings, tuple(ids), reason, shares, warnings))


def left_out_of(memories: Sequence[DocumentMemory]) -> tuple[str, ...]:
    """What the documents show their readers and their texts lack, a sentence each."""
    documents = [memory.document for memory in memories if memory.document is not None]
    return tuple(f"{document.name}: {what}." for document in documents for what in document.left_out)


def stream_answer(decoder: AnswerDecoder, asked: Asked) -> Generator[TextPiece, None, None]:
    """Yield the answer's text as it comes; the last piece carries the whole `Answer`.

    Args:
        decoder: fresh, over the chunks of the memories.
    """
    begun = time.perf_counter()
    writer = AnswerWriter(decoder, decoder.start(asked.local_ids, asked.prompt_ids), asked, begun=begun)
    for step in writer.loop:
        piece = writer.add(step)
        if piece:
            yield TextPiece(piece)
        if piece is None or writer.stopped:
            break
    yield writer.finish()


def answer_together(decoders: Sequence[ParallelDecoder], questions: Sequence[Asked]) -> list[Answer]:
    """Answer several questions over the same memories, all of them advancing in the same sweeps.

    Args:
        decoders: one for each question, fresh, over the chunks of the memories.
    """
    begun = time.perf_counter()
    started = start_together(decoders, [(asked.local_ids, asked.prompt_ids) for asked in questions])
    writers = [
        AnswerWriter(decoder, logits, asked, begun=begun)
        for decoder, logits, asked in zip(decoders, started, questions, strict=True)
    ]
    logits = [writer.logits for writer in writers]
    answers: list[Answer | None] = [None] * len(decoders)
    running = list(range(len(decoders)))
    while running:
        fed: list[tuple[int, int]] = []
        for index in running:
            writer = writers[index]
            step = writer.loop.take(logits[index])
            goes_on = step is not None and writer.add(step) is not None and not writer.stopped
            if step is not None and goes_on and not writer.loop.over:
                fed.append((index, step.token))
            else:
                answers[index] = writer.finish().answer
        running = [index for index, _ in fed]
        found = step_together([decoders[index] for index in running], [token for _, token in fed]) if fed else []
        for index, next_logits in zip(running, found, strict=True):
            logits[index] = next_logits
    return [answer for answer in answers if answer is not None]
