"""The decoding loop: choose, feed, repeat, until something ends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from focusdoc.config import GenerationConfig
from focusdoc.decoding.answer import FinishReason, Generation, Timings, Usage
from focusdoc.decoding.looking import QuestionRows
from focusdoc.decoding.sampling import TokenChooser
from focusdoc.decoding.text import TextStream
from focusdoc.modeling.base import BaseModel


class StepDecoder(Protocol):
    """Anything that turns a fed token into the next token's logits."""

    def step(self, token: int) -> Tensor:
        """Feed `token`; return float32 logits [vocab]."""
        ...


class AnswerDecoder(StepDecoder, Protocol):
    """A decoder over the chunks of memories that can say where it looked.

    Attributes:
        candidate_mass: attention mass that the newest local token paid to each chunk (to its candidate, where there
            are candidates), float32 [num_chunks], mean over layers and heads.
    """

    base: BaseModel
    num_chunks: int
    candidate_mass: Tensor

    def start(self, local_ids: Sequence[int], prompt_ids: Sequence[int]) -> Tensor:
        """Take in the local context and the dynamic prompt; return float32 logits [vocab] of the first new token."""
        ...

    def look(self, local_ids: Sequence[int], prompt_ids: Sequence[int], question: QuestionRows) -> None:
        """Take them in for the sake of a look; no answer is to follow.

        Args:
            question: rows of the dynamic prompt to be followed, for `look_for_question`.
        """
        ...

    def restart(self, local_ids: Sequence[int]) -> Tensor:
        """Put another local context, with passages in it, in the place of the first one, which ends with the same
        token; return float32 logits [vocab] of the first new token.
        """
        ...

    def look_for_question(self, chunks: Sequence[int]) -> list[Tensor]:
        """What the base model's followed heads took from each token of `chunks`: float32 [heads, chunk_len] each;
        none where no rows are followed.
        """
        ...

    def look_inside(
        self, chunks: Sequence[int], token_ids: Sequence[int], masses: Tensor, *, prompt_len: int
    ) -> list[Tensor]:
        """How much the answer looked at each token of `chunks`: one float32 [chunk_len] each.

        Args:
            token_ids: the token fed at each step: the last prompt token, then the answer's tokens but the last.
            masses: `candidate_mass` of each step, float32 [steps, num_chunks].
            prompt_len: tokens of the dynamic prompt.
        """
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """One chosen token and the float32 logits [vocab] it was chosen from; `is_end` marks the end-of-text token."""

    token: int
    logits: Tensor
    is_end: bool


class TokenLoop:
    """Iterates over the steps of one generation and knows why it ended.

    The decoder is fed only when the consumer asks for one more step, so leaving the loop early costs nothing. A
    consumer that leaves it for a reason of its own (a stop string) sets `finish_reason`.

    Args:
        logits: of the first new token, float32 [vocab].
        history: tokens that the repetition penalty counts beside the new ones.
        cancel: set it to end the loop after the current token.
    """

    def __init__(
        self,
        decoder: StepDecoder,
        logits: Tensor,
        generation: GenerationConfig,
        *,
        history: Sequence[int],
        eos_token_ids: frozenset[int],
        cancel: threading.Event | None = None,
    ) -> None:
        self._decoder = decoder
        self.first_logits = logits
        self._limit = generation.max_new_tokens
        self._ends = frozenset[int]() if generation.ignore_eos else eos_token_ids
        self._chooser = TokenChooser(generation, history)
        self._cancel = cancel
        self._taken = 0
        #: Whether the step taken last is the last one.
        self.over = False
        self.finish_reason: FinishReason = "length"

    def __iter__(self) -> Iterator[Step]:
        logits = self.first_logits
        while (step := self.take(logits)) is not None:
            yield step
            if self.over or self._cancelled():
                return
            logits = self._decoder.step(step.token)

    def take(self, logits: Tensor) -> Step | None:
        """Choose the next token from `logits`; None if the loop was cancelled."""
        if self._cancelled():
            return None
        token = self._chooser.choose(logits)
        is_end = token in self._ends
        stops = is_end or self._chooser.complete
        if stops:
            self.finish_reason = "stop"
        self._taken += 1
        self.over = stops or self._taken == self._limit
        return Step(token, logits, is_end)

    def _cancelled(self) -> bool:
        if self._cancel is not None and self._cancel.is_set():
            self.finish_reason = "cancelled"
            return True
        return False


def complete(
    loop: TokenLoop, settings: GenerationConfig, tokenizer: Any, *, begun: float, usage: Usage, keep_logits: bool
) -> Generation:
    """Run `loop` to its end and collect what it gave.

    Args:
        tokenizer: needed for stop strings only.
        begun: when the call began, by ``time.perf_counter``.
        usage: of the input; the new tokens are counted here.
    """
    first = time.perf_counter()
    text = TextStream(tokenizer, settings.stop) if settings.stop else None
    token_ids: list[int] = []
    logits: list[Tensor] = []
    for step in loop:
        token_ids.append(step.token)
        if keep_logits:
            logits.append(step.logits.cpu())
        if text is not None:
            text.add(step.token)
            if text.stopped:
                loop.finish_reason = "stop"
                break
    used = replace(usage, completion_tokens=len(token_ids))
    timings = Timings(first - begun, time.perf_counter() - first)
    stacked: Tensor | None = None
    if keep_logits:
        stacked = torch.stack(logits) if logits else loop.first_logits.new_empty(0, *loop.first_logits.shape).cpu()
    return Generation(token_ids, stacked, used, timings, loop.finish_reason)
