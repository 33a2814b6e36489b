"""Candidates alone: they carry what the chunks say to the local context, and the base model writes from them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from focusdoc.attention import AttentionKernel
from focusdoc.config import FocusConfig
from focusdoc.decoding.answer import Answer
from focusdoc.decoding.answering import Asked, OwnWay
from focusdoc.decoding.limits import questions_at_once
from focusdoc.decoding.parallel import ParallelDecoder
from focusdoc.decoding.together import chunks_at_once, start_together, step_together
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
