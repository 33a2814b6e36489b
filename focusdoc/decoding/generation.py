"""The decoding loop: choose, feed, repeat, until something ends it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from focusdoc.config import GenerationConfig
from focusdoc.decoding.sampling import TokenChooser


class StepDecoder(Protocol):
    """Anything that turns a fed token into the next token's logits."""

    def step(self, token: int) -> Tensor:
        """Feed `token`; return float32 logits [vocab]."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """One chosen token and the float32 logits [vocab] it was chosen from; `is_end` marks the end-of-text token."""

    token: int
    logits: Tensor
    is_end: bool


def generate_steps(
    decoder: StepDecoder,
    logits: Tensor,
    generation: GenerationConfig,
    *,
    history: Sequence[int],
    eos_token_ids: frozenset[int],
    cancel: threading.Event | None = None,
) -> Iterator[Step]:
    """Yield one step per new token, beginning with `logits`, the logits of the first.

    The decoder is fed only when the consumer asks for one more token, so leaving the loop early costs nothing. It
    ends after an end-of-text token (unless ignored), after `max_new_tokens`, or when `cancel` is set.
    """
    chooser = TokenChooser(generation, history)
    ends = frozenset[int]() if generation.ignore_eos else eos_token_ids
    for count in range(generation.max_new_tokens):
        if cancel is not None and cancel.is_set():
            return
        token = chooser.choose(logits)
        yield Step(token, logits, token in ends)
        if token in ends or count + 1 == generation.max_new_tokens:
            return
        if cancel is not None and cancel.is_set():
            return
        logits = decoder.step(token)
