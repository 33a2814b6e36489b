"""Answering with candidates, which carry each chunk's information into the local context."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from focusdoc.decoding.answer import Answer
from focusdoc.decoding.answering import OwnWay
from focusdoc.decoding.parallel import ParallelDecoder, RefreshedDecoder
from focusdoc.decoding.prompt import Request
from focusdoc.decoding.state import max_question_batch
from focusdoc.decoding.sweep import MAX_ROWS
from focusdoc.decoding.together import Together, run_together
from focusdoc.errors import AdapterError
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.modeling.adapter import Adapter
from focusdoc.modeling.base import BaseModel, CandidateWeights
from focusdoc.modeling.candidate import LayerWeights
from focusdoc.modeling.finding_weights import FindingWeights
from focusdoc.modeling.low_rank import adapter_that_finds


class Projections:
    """An adapter's candidate projections on the base model's device, packed when a decoder first needs them."""

    def __init__(self, base: BaseModel, adapter: Adapter | None, finding: FindingWeights | None = None) -> None:
        self._base = base
        #: Batches the steps of concurrent questions with these projections.
        self.together = Together()
        #: What reads candidates that find; None if these projections answer.
        self.finding = finding
        self._adapter = adapter
        self._that_find: Projections | None = None
        self._packed: CandidateWeights | None = None
        self._layers: list[LayerWeights] | None = None

    def required(self) -> list[LayerWeights]:
        """The candidate weights of every layer, in the model's dtype.

        Raises:
            AdapterError: there is no adapter, and the config does not allow untrained candidates; or it only finds.
        """
        base, adapter = self._base, self._adapter
        if adapter is None:
            raise AdapterError(
                f"{base.name} has no adapter, and untrained candidates retrieve nothing: pass adapter=<folder> "
                "(train one with `focusdoc train`), or FocusConfig(allow_untrained=True) for experiments."
            )
        if adapter.only_finds:
            raise AdapterError(
                f"The candidates of this adapter of {base.name} only find passages for a reader: name a reader, or "
                "pass an adapter that answers."
            )
        if self._layers is None:
            self._layers = [
                {letter: weight.to(base.device, base.dtype) for letter, weight in adapter.of_layer(layer).items()}
                for layer in range(base.num_layers)
            ]
        return self._layers

    @property
    def that_find(self) -> Projections | None:
        """The projections whose candidates were trained to find passages, if there are any."""
        adapter = self._adapter
        if adapter is None or adapter.finding is None:
            return None
        with self._base.lock:  # make them only once
            if self._that_find is None:
                self._that_find = Projections(self._base, adapter_that_finds(adapter), adapter.finding)
            return self._that_find

    def packed(self) -> CandidateWeights:
        """`required`, packed for decoding steps; see `BaseModel.packed`."""
        with self._base.lock:  # pack only once
            if self._packed is None:
                self._packed = self._base.packed(self.required())
            return self._packed


@dataclass(eq=False)
class Candidates(OwnWay[ParallelDecoder]):
    """Answers from the candidates alone. A batch of questions shares its sweeps."""

    overflow_message = "{} candidates", "raise chunk_size or lower max_new_tokens"
    kind = ParallelDecoder
    projections: Projections

    def decoder(
        self, blocks: Sequence[MemoryBlock], max_new_tokens: int, chunk_batch: int | None = None
    ) -> ParallelDecoder:
        """See `OwnWay.decoder`; `chunk_batch` overrides the setting."""
        return self.kind(
            self.base,
            self.projections.packed(),
            blocks,
            kernel=self.kernel,
            config=replace(self.config, chunk_batch=chunk_batch or self.config.chunk_batch),
            max_new_tokens=max_new_tokens,
            together=self.projections.together,
            finding=self.projections.finding,
        )

    def num_candidate_positions(self, num_chunks: int) -> int:
        """See `OwnWay.num_candidate_positions`: one per chunk, or one for all."""
        return min(1, num_chunks) if self.config.candidate_positions == "shared" else num_chunks

    def num_tail_tokens(self, prompt_tokens: int, new_tokens: int) -> int:
        """See `OwnWay.num_tail_tokens`."""
        return min(prompt_tokens, self.config.prompt_window) + new_tokens

    def check_ready(self) -> None:
        """See `OwnWay.check_ready`."""
        super().check_ready()
        self.projections.required()

    def answer_many(self, questions: Sequence[Request], batch: int) -> list[Answer]:
        """See `Way.answer_many`; batches are smaller when memory is short."""
        longest = max(len(request.prompt_ids) for request in questions)
        num_chunks = sum(block.num_chunks for block in questions[0].blocks)
        batch = min(batch, max_question_batch(self.base, num_chunks, longest, questions[0].settings.max_new_tokens))
        groups = [questions[start : start + batch] for start in range(0, len(questions), batch)]
        return [answer for group in groups for answer in self.answer_batch(group)]

    def answer_batch(self, questions: Sequence[Request]) -> list[Answer]:
        """Answer questions that are decoded together, in the same sweeps."""
        # So that all of them split the chunks into the same groups.
        size = self.config.chunk_batch or max(1, MAX_ROWS // sum(len(request.prompt_ids) for request in questions))
        blocks = questions[0].blocks
        decoders = [self.decoder(blocks, request.settings.max_new_tokens, size) for request in questions]
        started_at = time.perf_counter()
        started = start_batch(decoders, [(request.local_ids, request.prompt_ids) for request in questions])
        writers = [
            self.writer(decoder, logits, request, started_at=started_at)
            for decoder, logits, request in zip(decoders, started, questions, strict=True)
        ]
        # Of the questions that go on, by their index.
        logits = {index: writer.loop.first_logits for index, writer in enumerate(writers)}
        answers: dict[int, Answer | None] = {}
        while logits:
            tokens: dict[int, int] = {}
            for index, own in logits.items():
                writer = writers[index]
                step = writer.loop.take(own)
                continues = step is not None and writer.add(step) is not None and not writer.stopped
                if step is not None and continues and not writer.loop.over:
                    tokens[index] = step.token
                else:
                    answers[index] = writer.finish().answer
            found = step_batch([decoders[index] for index in tokens], list(tokens.values())) if tokens else []
            logits = dict(zip(tokens, found, strict=True))
        return [answer for index in range(len(questions)) if (answer := answers[index]) is not None]


class Refreshed(Candidates):
    """Answers in paper mode (`RefreshedDecoder`)."""

    kind = RefreshedDecoder


@torch.no_grad()
def start_batch(
    decoders: Sequence[ParallelDecoder], questions: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> list[Tensor]:
    """`ParallelDecoder.start` for several new decoders over the same blocks; their float32 logits [vocab].

    `questions` are the local context and the dynamic prompt of each.
    """
    return _advance(
        decoders, [decoder.prepare_start(*question) for decoder, question in zip(decoders, questions, strict=True)]
    )


@torch.no_grad()
def step_batch(decoders: Sequence[ParallelDecoder], tokens: Sequence[int]) -> list[Tensor]:
    """`ParallelDecoder.step` for several decoders, one token each; their float32 logits [vocab]."""
    return _advance(decoders, [decoder.prepare_step(token) for decoder, token in zip(decoders, tokens, strict=True)])


def _advance(decoders: Sequence[ParallelDecoder], fed: Sequence[tuple[list[int], list[int]]]) -> list[Tensor]:
    passes = [decoder.passes(*tokens) for decoder, tokens in zip(decoders, fed, strict=True)]
    found = run_together(decoders[0].base, decoders[0].weights, passes)
    return [
        decoder.finish_passes(own[-1], hidden, len(ordinary), len(local_ids))
        for decoder, own, hidden, (ordinary, local_ids) in zip(decoders, passes, found, fed, strict=True)
    ]
