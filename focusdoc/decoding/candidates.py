"""Answering by candidates: they carry what the chunks say to the local context, and the base model writes from them.

The rows of several questions share every linear layer, and the stored keys of a chunk are read once for all of them,
which is what a step over a long memory costs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from focusdoc.attention import AttentionKernel
from focusdoc.config import FocusConfig
from focusdoc.decoding.answer import Answer
from focusdoc.decoding.answering import OwnWay
from focusdoc.decoding.parallel import MAX_ROWS, ParallelDecoder, RefreshedDecoder
from focusdoc.decoding.prompt import Asked
from focusdoc.decoding.state import questions_at_once
from focusdoc.decoding.sweep import PassRows, SideBySide
from focusdoc.errors import AdapterError
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.modeling.adapter import Adapter
from focusdoc.modeling.base import BaseModel, CandidateWeights
from focusdoc.modeling.candidate import LayerWeights


class Projections:
    """The candidate projections of an adapter on the device of its base model; packed where a decoder needs them."""

    def __init__(self, base: BaseModel, adapter: Adapter | None) -> None:
        self._base = base
        self._packed: CandidateWeights | None = None
        self._layers: list[LayerWeights] | None = None
        if adapter is not None:
            self._layers = [
                {letter: weight.to(base.device, base.dtype) for letter, weight in adapter.of_layer(layer).items()}
                for layer in range(base.num_layers)
            ]

    def required(self) -> list[LayerWeights]:
        """The candidate weights of every layer, in the model's dtype.

        Raises:
            AdapterError: there is no adapter, and untrained candidates were not asked for.
        """
        if self._layers is None:
            raise AdapterError(
                f"{self._base.name} has no adapter, and untrained candidates retrieve nothing: pass adapter=<folder> "
                "(train one with `focusdoc train`), or FocusConfig(allow_untrained=True) for experiments."
            )
        return self._layers

    def packed(self) -> CandidateWeights:
        """`required` for many steps; see `BaseModel.packed`."""
        with self._base.lock:  # once, whichever thread asks first
            if self._packed is None:
                self._packed = self._base.packed(self.required())
            return self._packed


class Candidates(OwnWay[ParallelDecoder]):
    """Answers from the candidates alone. Several questions go through the same sweeps.

    Args:
        projections: of the candidates.
    """

    in_front_of = "{} candidates", "raise chunk_size or lower max_new_tokens"
    kind = ParallelDecoder

    def __init__(self, base: BaseModel, config: FocusConfig, kernel: AttentionKernel, projections: Projections) -> None:
        super().__init__(base, config, kernel)
        self.projections = projections

    def decoder(
        self, blocks: Sequence[MemoryBlock], max_new_tokens: int, chunk_batch: int | None = None
    ) -> ParallelDecoder:
        """See `OwnWay.decoder`; `chunk_batch` takes the place of the setting."""
        config = self.config if chunk_batch is None else replace(self.config, chunk_batch=chunk_batch)
        weights = self.projections.packed()
        return self.kind(self.base, weights, blocks, kernel=self.kernel, config=config, max_new_tokens=max_new_tokens)

    def num_in_front(self, num_chunks: int) -> int:
        """See `OwnWay.num_in_front`: a candidate for each chunk."""
        return min(1, num_chunks) if self.config.candidate_positions == "shared" else num_chunks

    def num_behind(self, prompt_tokens: int, new_tokens: int) -> int:
        """See `OwnWay.num_behind`."""
        return min(prompt_tokens, self.config.prompt_window) + new_tokens

    def check_ready(self) -> None:
        """See `OwnWay.check_ready`."""
        super().check_ready()
        self.projections.required()

    def answer_many(self, questions: Sequence[Asked], batch: int) -> list[Answer]:
        """See `Way.answer_many`; fewer go together where memory is short."""
        longest = max(len(asked.prompt_ids) for asked in questions)
        num_chunks = sum(block.num_chunks for block in questions[0].blocks)
        batch = min(batch, questions_at_once(self.base, num_chunks, longest, questions[0].settings.max_new_tokens))
        groups = [questions[start : start + batch] for start in range(0, len(questions), batch)]
        return [answer for group in groups for answer in self.answer_together(group)]

    def answer_together(self, questions: Sequence[Asked]) -> list[Answer]:
        """The answers to questions that all advance in the same sweeps."""
        blocks, size = questions[0].blocks, chunks_at_once(self.config, [len(asked.prompt_ids) for asked in questions])
        decoders = [self.decoder(blocks, asked.settings.max_new_tokens, size) for asked in questions]
        begun = time.perf_counter()
        started = start_together(decoders, [(asked.local_ids, asked.prompt_ids) for asked in questions])
        writers = [
            self.writer(decoder, logits, asked, begun=begun)
            for decoder, logits, asked in zip(decoders, started, questions, strict=True)
        ]
        logits = [writer.loop.first_logits for writer in writers]
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


class Refreshed(Candidates):
    """Answers in paper mode."""

    kind = RefreshedDecoder


def chunks_at_once(config: FocusConfig, prompt_lens: Sequence[int]) -> int:
    """The `chunk_batch` under which questions with prompts of these lengths cut the chunks into the same groups."""
    return config.chunk_batch or max(1, MAX_ROWS // sum(prompt_lens))


@torch.no_grad()
def start_together(
    decoders: Sequence[ParallelDecoder], questions: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> list[Tensor]:
    """`ParallelDecoder.start` of all `decoders`, fresh and over the same blocks; their float32 logits [vocab].

    Args:
        questions: the local context and the dynamic prompt of each.
    """
    return _advance(decoders, [decoder.open(*given) for decoder, given in zip(decoders, questions, strict=True)])


@torch.no_grad()
def step_together(decoders: Sequence[ParallelDecoder], tokens: Sequence[int]) -> list[Tensor]:
    """`ParallelDecoder.step` of all `decoders`, each with its token; their float32 logits [vocab]."""
    return _advance(decoders, [decoder.next(token) for decoder, token in zip(decoders, tokens, strict=True)])


def _advance(decoders: Sequence[ParallelDecoder], fed: Sequence[tuple[list[int], list[int]]]) -> list[Tensor]:
    passes = [decoder.passes(*tokens) for decoder, tokens in zip(decoders, fed, strict=True)]
    rounds = max(map(len, passes))
    hidden: dict[int, Tensor] = {}
    for number in range(rounds):
        # Aligned at the end: the last pass of each holds its local rows, which see what the others made.
        active = [index for index, own in enumerate(passes) if len(own) >= rounds - number]
        rows = [passes[index][number - rounds] for index in active]
        hidden |= zip(active, _run(decoders[0], rows), strict=True)
    return [
        decoder.settle(own[-1], hidden[index], len(ordinary), len(local_ids))
        for index, (decoder, own, (ordinary, local_ids)) in enumerate(zip(decoders, passes, fed, strict=True))
    ]


def _run(decoder: ParallelDecoder, passes: Sequence[PassRows]) -> list[Tensor]:
    """One pass for all; returns the final hidden states of each one's leading rows, [num_leading, hidden_size]."""

    def arrange(rows: Sequence[Tensor]) -> Tensor:
        leading = [row[: each.num_leading] for row, each in zip(rows, passes, strict=True)]
        candidates = [row[each.num_leading :] for row, each in zip(rows, passes, strict=True)]
        return torch.cat(leading + candidates)[None].to(decoder.base.device)

    layout = SideBySide(passes)
    hidden = decoder.base.run(
        arrange([each.token_ids for each in passes]),
        arrange([each.positions for each in passes]),
        layout,
        weights=decoder.weights,
        num_candidates=sum(each.num_candidates for each in passes),
    )
    return [hidden[0, leading] for leading, _ in layout.spans]
