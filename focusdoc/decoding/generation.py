"""The decoding loop (choose a token, feed it, repeat), and incremental detokenization."""

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
from focusdoc.decoding.state import QuestionRows
from focusdoc.modeling.base import BaseModel
from focusdoc.modeling.finding_weights import FindingWeights

#: How a tokenizer decodes bytes that are not a complete character yet.
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class TokenChooser:
    """Chooses tokens by a `GenerationConfig`, and keeps the history for the repetition penalty.

    Args:
        history: token ids of the local context, which the repetition penalty counts too.
    """

    def __init__(self, config: GenerationConfig, history: Sequence[int]) -> None:
        from transformers.generation import logits_process as processors

        self._history = list(history)
        self._sampled = config.temperature > 0
        steps = processors.LogitsProcessorList()
        if config.repetition_penalty != 1.0:
            steps.append(processors.RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
        if self._sampled:
            # In the order of transformers' generate.
            if config.temperature != 1.0:
                steps.append(processors.TemperatureLogitsWarper(float(config.temperature)))
            if config.top_k:
                steps.append(processors.TopKLogitsWarper(config.top_k))
            if config.top_p < 1.0:
                steps.append(processors.TopPLogitsWarper(config.top_p))
        self._steps = steps
        self._grammar = config.grammar.start() if config.grammar is not None else None
        self._generator: torch.Generator | None = None
        if config.seed is not None:
            # On the CPU on any device, so that a seed draws the same tokens everywhere.
            self._generator = torch.Generator().manual_seed(config.seed)

    @property
    def complete(self) -> bool:
        """Whether the grammar, if any, allows no further token."""
        return self._grammar is not None and self._grammar.complete

    def choose(self, logits: Tensor) -> int:
        """The next token id from float32 logits [vocab]."""
        scores = logits[None].cpu()
        if self._grammar is not None:  # first, so that top_k and top_p count allowed tokens only
            scores = self._grammar.mask(scores)
        if self._steps:
            scores = self._steps(torch.tensor([self._history]), scores)
        if self._sampled:
            token = int(torch.multinomial(scores.softmax(dim=-1), 1, generator=self._generator))
        else:
            token = int(scores.argmax(dim=-1))
        self._history.append(token)
        if self._grammar is not None:
            self._grammar.accept(token)
        return token


class TextStream:
    """Detokenizes incrementally; the joined pieces equal the final text.

    Text that could still change is held back: an incomplete character, or a prefix of a stop string.

    Args:
        tokenizer: any transformers tokenizer.
        stop: stop strings; they are cut off.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._token_ids: list[int] = []
        self._sent = 0
        #: The text so far, without stop strings.
        self.text = ""
        #: Whether a stop string was generated.
        self.stopped = False

    def add(self, token: int) -> str:
        """Append a token; return the text that is now final (often empty)."""
        self._token_ids.append(token)
        decoded = self._tokenizer.decode(self._token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        # Some tokenizers decode a whole run of bytes as broken while its last one is incomplete; keep what was sent.
        self.text = self.text[: self._sent] + decoded[self._sent :]
        found = [place for place in (self.text.find(stop) for stop in self._stop) if place >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.stopped = True
            return self._up_to(len(self.text))
        certain = len(self.text)
        while certain > self._sent and self.text[certain - 1] == _INCOMPLETE:
            certain -= 1
        return self._up_to(min([certain] + [self._safe_end(stop, certain) for stop in self._stop]))

    def finish(self) -> str:
        """The rest of the text, after the last token."""
        return self._up_to(len(self.text))

    def _up_to(self, end: int) -> str:
        piece = self.text[self._sent : end]
        self._sent = max(self._sent, end)
        return piece

    def _safe_end(self, stop: str, end: int) -> int:
        """Length of ``text[:end]`` without its longest suffix that is a prefix of `stop`."""
        for length in range(min(len(stop) - 1, end), 0, -1):
            if self.text.startswith(stop[:length], end - length):
                return end - length
        return end


class StepDecoder(Protocol):
    """A decoder that maps a fed token to the next token's logits."""

    base: BaseModel

    def step(self, token: int) -> Tensor:
        """Feed `token`; return float32 logits [vocab]."""


class AnswerDecoder(StepDecoder, Protocol):
    """A decoder over the chunks of memories that can attribute its answer.

    Attributes:
        candidate_mass: attention mass that the newest local token paid to each chunk (to its candidate, if there are
            candidates), float32 [num_chunks], mean over layers and heads.
        relevance: after a `look` with candidates that were trained to find: how likely each chunk has the answer,
            logits, float32 [num_chunks].
        finding: the weights that were trained with them; None for other decoders.
    """

    num_chunks: int
    candidate_mass: Tensor
    relevance: Tensor | None
    finding: FindingWeights | None

    def start(self, local_ids: Sequence[int], prompt_ids: Sequence[int]) -> Tensor:
        """Prefill the local context and the dynamic prompt; return float32 logits [vocab] of the first new token."""

    def look(self, local_ids: Sequence[int], prompt_ids: Sequence[int], question: QuestionRows) -> None:
        """Like `start`, but only to score the chunks; no answer follows.

        Args:
            question: the rows of the dynamic prompt that `question_token_scores` scores for.
        """

    def restart(self, local_ids: Sequence[int]) -> Tensor:
        """Replace the local context by one with passages, which ends with the same token; return float32 logits
        [vocab] of the first new token.
        """

    def question_token_scores(self, chunks: Sequence[int]) -> list[Tensor]:
        """Scores of each token of `chunks` by the retrieval heads, for the rows given to `look`: float32 [heads,
        chunk_len] each; an empty list without retrieval heads.
        """

    def answer_token_scores(
        self, chunks: Sequence[int], token_ids: Sequence[int], masses: Tensor, *, prompt_len: int
    ) -> list[Tensor]:
        """How much the answer attended to each token of `chunks`: float32 [chunk_len] each.

        Args:
            token_ids: the token fed at each step: the last prompt token, then the answer's tokens except the last.
            masses: `candidate_mass` of each step, float32 [steps, num_chunks].
            prompt_len: tokens of the dynamic prompt.
        """


@dataclass(frozen=True, slots=True)
class Step:
    """A chosen token and the float32 logits [vocab] it was chosen from; `is_end` marks the end-of-text token."""

    token: int
    logits: Tensor
    is_end: bool


class TokenLoop:
    """Iterates over the steps of one generation and records why it ended.

    The decoder is fed only when the next step is requested, so leaving the loop early costs nothing. A consumer that
    leaves it for its own reason (a stop string) sets `finish_reason`.

    Args:
        logits: of the first new token, float32 [vocab].
        history: earlier tokens for the repetition penalty.
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
        #: Whether the last `take` ended the generation.
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
        """Choose the next token from `logits`; None if cancelled."""
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
    loop: TokenLoop, settings: GenerationConfig, tokenizer: Any, *, started_at: float, usage: Usage, keep_logits: bool
) -> Generation:
    """Run `loop` to its end and collect the result.

    Args:
        tokenizer: needed for stop strings only.
        started_at: start time of the call, by ``time.perf_counter``.
        usage: of the input; the new tokens are added here.
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
    timings = Timings(first - started_at, time.perf_counter() - first)
    stacked: Tensor | None = None
    if keep_logits:
        stacked = torch.stack(logits) if logits else loop.first_logits.new_empty(0, *loop.first_logits.shape).cpu()
    return Generation(token_ids, stacked, used, timings, loop.finish_reason)
