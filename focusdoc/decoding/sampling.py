"""Choosing the next token, through transformers' own logits processors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from focusdoc.config import GenerationConfig


class TokenChooser:
    """Chooses tokens by a `GenerationConfig`; remembers what was said, for the repetition penalty.

    Args:
        history: token ids of the local context, which the repetition penalty counts beside the answer's.
    """

    def __init__(self, config: GenerationConfig, history: Sequence[int]) -> None:
        from transformers.generation import logits_process as processors

        self._history = list(history)
        self._sampled = config.temperature > 0
        steps = processors.LogitsProcessorList()
        if config.repetition_penalty != 1.0:
            steps.append(processors.RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
        if self._sampled:
            # The order of transformers' generate.
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
            # On the CPU whatever the model's device, so that one seed draws the same tokens everywhere.
            self._generator = torch.Generator().manual_seed(config.seed)

    @property
    def complete(self) -> bool:
        """Whether the grammar, if there is one, lets nothing more come."""
        return self._grammar is not None and self._grammar.complete

    def choose(self, logits: Tensor) -> int:
        """The next token id from float32 logits [vocab]."""
        scores = logits[None].cpu()
        if self._grammar is not None:  # first, so that top_k and top_p count allowed tokens alone
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
