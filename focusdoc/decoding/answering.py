"""Answering in words: what is asked, what a way of answering is, and what the base model's own ways have in common."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from focusdoc.attention import AttentionKernel
from focusdoc.config import FocusConfig, GenerationConfig
from focusdoc.decoding.answer import Answer, Source, TextPiece, Timings, Usage
from focusdoc.decoding.attribution import chunk_shares, find_sources
from focusdoc.decoding.generation import AnswerDecoder, Step, StepDecoder, TextStream, TokenLoop
from focusdoc.decoding.prompt import Asked
from focusdoc.decoding.state import TAIL_STEP, check_bytes
from focusdoc.errors import PromptTooLongError
from focusdoc.memory.chunk_memory import DocumentMemory, MemoryBlock
from focusdoc.modeling.base import BaseModel

DecoderT = TypeVar("DecoderT", bound=AnswerDecoder)


class Way(Protocol):
    """A way of answering. It keeps nothing of a question, so any number may be asked at once."""

    def check(self, asked: Asked) -> None:
        """Raise what makes the call wrong, before anything is computed; documents need not be read yet."""
        ...

    def stream(self, asked: Asked) -> Generator[TextPiece, None, None]:
        """Yield the answer's text as it comes; the last piece carries the whole `Answer`."""
        ...

    def answer(self, asked: Asked) -> Answer:
        """The whole answer."""
        *_, last = self.stream(asked)
        assert last.answer is not None  # the last piece carries it
        return last.answer

    def answer_many(self, questions: Sequence[Asked], batch: int) -> list[Answer]:
        """The answers to several questions over the same memories, up to `batch` at once if that saves work."""
        return [self.answer(asked) for asked in questions]


def left_out_of(memories: Sequence[DocumentMemory]) -> tuple[str, ...]:
    """What the documents show their readers and their texts lack, a sentence each."""
    documents = [memory.document for memory in memories if memory.document is not None]
    return tuple(f"{document.name}: {what}." for document in documents for what in document.left_out)


class Writer:
    """One answer while it is written: its tokens and its text. The one loop of all answers in words goes through it.

    Args:
        decoder: as it stands after its start, whose `logits` these are.
        begun: when the call began, by ``time.perf_counter``.
        quoted_tokens: what passages take in the local context.

    Attributes:
        loop: chooses the tokens.
    """

    def __init__(
        self, decoder: StepDecoder, logits: Tensor, asked: Asked, *, begun: float, quoted_tokens: int = 0
    ) -> None:
        self.asked = asked
        self._begun = begun
        self._quoted_tokens = quoted_tokens
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
        self._likelihood = 0.0
        self.token_ids: list[int] = []

    def add(self, step: Step) -> str | None:
        """Take a step in, before its token is fed; return the text that is now certain, None where the answer ends."""
        self._likelihood += float(step.logits.log_softmax(dim=-1)[step.token])
        if step.is_end:
            return None
        self.token_ids.append(step.token)
        return self._text.add(step.token)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        if self._text.stopped:
            self.loop.finish_reason = "stop"
        return self._text.stopped

    def pieces(self) -> Generator[TextPiece, None, None]:
        """Write to the end; the last piece carries the whole `Answer`."""
        for step in self.loop:
            piece = self.add(step)
            if piece:
                yield TextPiece(piece)
            if piece is None or self.stopped:
                break
        yield self.finish()

    def finish(self) -> TextPiece:
        """The last piece, which carries the whole `Answer`."""
        rest = self._text.finish()
        timings = Timings(self._first - self._begun, time.perf_counter() - self._first)
        sources, shares = self.origin()
        memories = self.asked.memories
        usage = Usage(
            sum(memory.num_tokens for memory in memories),
            sum(block.num_chunks for block in self.asked.blocks),
            len(self.asked.local_ids),
            len(self.token_ids),
            quoted_tokens=self._quoted_tokens,
        )
        answer = Answer(
            self._text.text,
            sources,
            usage,
            timings,
            tuple(self.token_ids),
            self.loop.finish_reason,
            shares,
            left_out_of(memories),
            log_likelihood=self._likelihood,
        )
        return TextPiece(rest, answer)

    def origin(self) -> tuple[tuple[Source, ...], tuple[float, ...]]:
        """Where the answer comes from: its sources, and each chunk's share of the attention."""
        return (), ()


class AnswerWriter(Writer):
    """A `Writer` over the chunks of memories: it keeps the attention that tokens paid to them.

    Args:
        looks: so many first tokens' attention tells where the answer comes from; None for all.
    """

    def __init__(
        self,
        decoder: AnswerDecoder,
        logits: Tensor,
        asked: Asked,
        *,
        begun: float,
        quoted_tokens: int = 0,
        looks: int | None = None,
    ) -> None:
        super().__init__(decoder, logits, asked, begun=begun, quoted_tokens=quoted_tokens)
        self._decoder = decoder
        self._looks = looks
        self._masses: list[Tensor] = []

    def add(self, step: Step) -> str | None:
        """See `Writer.add`."""
        if not step.is_end:
            self._masses.append(self._decoder.candidate_mass)
        return super().add(step)

    def origin(self) -> tuple[tuple[Source, ...], tuple[float, ...]]:
        """See `Writer.origin`."""
        if not self.token_ids:
            return (), ()
        asked = self.asked
        fed = [asked.prompt_ids[-1], *self.token_ids[:-1]][: self._looks]
        paid = torch.stack(self._masses[: self._looks]).cpu()
        prompt_len = len(asked.prompt_ids)
        sources = find_sources(self._decoder, asked.memories, fed, paid, prompt_len=prompt_len, limit=asked.max_sources)
        return sources, tuple(chunk_shares(paid).tolist())


class OwnWay(Way, Generic[DecoderT]):
    """The base model writes, over the chunks that its decoder brings to the local context.

    Args:
        config: with its open settings filled in.

    Attributes:
        in_front_of: what takes the positions in front of the local context, and what would lower them, for messages.
    """

    in_front_of: tuple[str, str]

    def __init__(self, base: BaseModel, config: FocusConfig, kernel: AttentionKernel) -> None:
        self.base = base
        self.config = config
        self.kernel = kernel

    def decoder(self, blocks: Sequence[MemoryBlock], max_new_tokens: int) -> DecoderT:
        """A fresh decoder over the chunks of `blocks`, with room for so many steps."""
        raise NotImplementedError

    def start(self, decoder: DecoderT, asked: Asked) -> Tensor:
        """Float32 logits [vocab] of the first new token, of a fresh decoder."""
        return decoder.start(asked.local_ids, asked.prompt_ids)

    def start_behind(
        self, decoder: DecoderT, ids: Sequence[int], local_ids: list[int], prompt_ids: list[int], new_tokens: int
    ) -> Tensor:
        """The same for bare tokens, which no question is told from.

        Args:
            ids: of all chunks.
        """
        return decoder.start(local_ids, prompt_ids)

    def writer(self, decoder: DecoderT, logits: Tensor, asked: Asked, *, begun: float) -> AnswerWriter:
        """What writes the answer; see `AnswerWriter`."""
        return AnswerWriter(decoder, logits, asked, begun=begun)

    def num_in_front(self, num_chunks: int) -> int:
        """Positions in front of the local context."""
        raise NotImplementedError

    def num_behind(self, prompt_tokens: int, new_tokens: int) -> int:
        """Tokens of question and answer whose keys and values stand behind every chunk."""
        return 0

    def positions_left(self, num_chunks: int, local_len: int, max_new_tokens: int) -> int:
        """Positions that the model has left over behind all of these; below 0, they do not fit."""
        return self.base.context_length - self.num_in_front(num_chunks) - local_len - max_new_tokens

    def check_ready(self) -> None:
        """Make sure that questions can be answered at all; see `EngineCore.check_ready`."""
        self.base.check_process()

    def check(self, asked: Asked) -> None:
        """See `Way.check`."""
        self.check_ready()
        lengths = [memory.num_tokens for memory in asked.memories] or [self.config.chunk_size or 0]
        self.check_room(lengths, len(asked.local_ids), asked.settings)

    def check_room(self, document_lengths: Sequence[int], local_len: int, settings: GenerationConfig) -> None:
        """Make sure that documents of these lengths, in tokens, a local context and the answer keep within the
        positions of the model, and what the first new tokens need within free memory.

        Raises:
            PromptTooLongError, MemoryShortageError: they do not; the message says what to lower or raise.
        """
        base, size, new = self.base, self.config.chunk_size or 0, settings.max_new_tokens
        num_chunks = sum(math.ceil(length / size) for length in document_lengths)
        longest_chunk = min(size, max(document_lengths, default=0))
        behind = longest_chunk + self.num_behind(local_len, new) if num_chunks else 0
        if behind > base.context_length:
            raise PromptTooLongError(
                f"A chunk with the question and {new} new tokens behind it takes {behind} positions, but "
                f"{base.name} has {base.context_length}; lower chunk_size, prompt_window or max_new_tokens."
            )
        if self.positions_left(num_chunks, local_len, new) < 0:
            what, remedy = self.in_front_of
            taken = self.num_in_front(num_chunks) + local_len + new
            raise PromptTooLongError(
                f"{what.format(num_chunks)}, {local_len} local tokens and {new} new ones take {taken} positions, but "
                f"{base.name} has {base.context_length}; {remedy}."
            )
        check_bytes(base, num_chunks, self.num_behind(local_len, min(TAIL_STEP, new)))

    def stream(self, asked: Asked) -> Generator[TextPiece, None, None]:
        """See `Way.stream`."""
        decoder = self.decoder(asked.blocks, asked.settings.max_new_tokens)
        begun = time.perf_counter()
        yield from self.writer(decoder, self.start(decoder, asked), asked, begun=begun).pieces()
