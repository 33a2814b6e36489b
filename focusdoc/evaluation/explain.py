"""Where an answer looked: attention over candidates and local tokens, and chunk mass (the paper's Figures 7 and 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from focusdoc.attention import AttentionKernel, attention_weights
from focusdoc.config import GenerationConfig
from focusdoc.decoding.answer import Source
from focusdoc.decoding.answering import stream_answer
from focusdoc.decoding.local_context import local_and_prompt
from focusdoc.decoding.parallel import ParallelDecoder
from focusdoc.decoding.prompt import question_prompt
from focusdoc.documents import Document
from focusdoc.documents.chunking import Chunk
from focusdoc.engine import FocusEngine
from focusdoc.errors import EvaluationError
from focusdoc.evaluation.engines import tokenizer_of
from focusdoc.memory.chunk_memory import DocumentMemory


@dataclass(frozen=True, eq=False)
class Explanation:
    """One answer with the attention behind each of its tokens.

    Attributes:
        question, answer: the texts.
        local_tokens: the local context as texts of single tokens, then the answer's but the last.
        answer_tokens: the answer's tokens as texts; one row of each matrix for each.
        candidates: float32 [answer tokens, chunks], attention from the newest local token to each chunk's
            candidate, in the chosen layer and head, or the mean over those that were not chosen.
        local: float32 [answer tokens, local tokens], the same to the local tokens; 0 where a token came later.
        masses: float32 [answer tokens, chunks], attention to the candidates over all layers and heads.
        chunks: the document's chunks.
        sources: the passages that the answer came from.
        layer, head: what was chosen, None for the mean over all.
    """

    document: Document
    question: str
    answer: str
    local_tokens: Sequence[str]
    answer_tokens: Sequence[str]
    candidates: Tensor
    local: Tensor
    masses: Tensor
    chunks: Sequence[Chunk]
    sources: Sequence[Source]
    layer: int | None
    head: int | None

    @property
    def chunk_shares(self) -> list[float]:
        """Each chunk's share of the attention that all candidates got over the whole answer."""
        total = self.masses.sum(dim=0)
        shares: list[float] = (total / total.sum().clamp_min(torch.finfo(torch.float32).tiny)).tolist()
        return shares

    def page_shares(self) -> dict[int, float]:
        """The share of every page, a chunk's shared out by its characters on each page."""
        shares = {page.number: 0.0 for page in self.document.pages}
        for chunk, share in zip(self.chunks, self.chunk_shares, strict=True):
            length = max(1, chunk.char_end - chunk.char_start)
            for page in self.document.pages_between(chunk.char_start, chunk.char_end):
                overlap = min(page.end, chunk.char_end) - max(page.start, chunk.char_start)
                shares[page.number] += share * max(0, overlap) / length
        return shares


class AttentionRecorder:
    """An attention kernel that keeps what the newest local token attended to.

    In a sweep, the call over candidates and local tokens is the one with a prefix, once in each layer.
    """

    def __init__(self, kernel: AttentionKernel, num_layers: int, layer: int | None, head: int | None) -> None:
        self._kernel, self._num_layers = kernel, num_layers
        self._layer, self._head = layer, head
        self._calls = 0
        self._sum: Tensor | None = None
        #: Of every step, float32 [candidates + local tokens].
        self.steps: list[Tensor] = []

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scaling: float,
        query_start: int,
        window: int | None = None,
        prefix: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """See `focusdoc.attention.naive.attend`."""
        if prefix:
            layer = self._calls % self._num_layers
            if self._layer in (None, layer):
                place = query_start + query.shape[2] - 1
                weights, _ = attention_weights(
                    query[:, :, -1:], key, scaling=scaling, query_start=place, window=window, prefix=prefix
                )
                of_heads = weights[0, :, 0].cpu()  # [heads, candidates + local tokens]
                seen = of_heads.mean(dim=0) if self._head is None else of_heads[self._head]
                self._sum = seen if self._sum is None else self._sum + seen
            self._calls += 1
            if layer == self._num_layers - 1 and self._sum is not None:
                self.steps.append(self._sum / (self._num_layers if self._layer is None else 1))
                self._sum = None
        return self._kernel(query, key, value, scaling=scaling, query_start=query_start, window=window, prefix=prefix)


def check_layer_and_head(engine: FocusEngine, layer: int | None, head: int | None) -> None:
    """Raise EvaluationError unless the model has such a layer and head; no document need be read to find out."""
    base = engine.base
    for name, value, count in (("layer", layer, base.num_layers), ("head", head, base.num_heads)):
        if value is not None and not 0 <= value < count:
            raise EvaluationError(f"The {name} is {value}; {base.name} has {count}, from 0 to {count - 1}.")


def explain(
    engine: FocusEngine,
    memory: DocumentMemory,
    question: str,
    *,
    layer: int | None = None,
    head: int | None = None,
    max_new_tokens: int = 32,
) -> Explanation:
    """Answer a question and keep the attention behind every token of the answer.

    Args:
        memory: of a document, as `FocusEngine.read` gives it.
        layer, head: which attention to show, 0 for the first; None for the mean over all.

    Raises:
        EvaluationError: there is no such layer or head, or the answer is empty.
        PromptTooLongError, AdapterError: as `FocusEngine.ask`.
    """
    base = engine.base
    check_layer_and_head(engine, layer, head)
    if memory.document is None:
        raise EvaluationError("This memory was made from bare token ids; read a document to explain answers over it.")
    engine.check_question(question, max_new_tokens=max_new_tokens)
    tokenizer = tokenizer_of(engine)
    with base.tokenizer_lock:
        local_ids, prompt_ids = local_and_prompt(base, engine.config, question_prompt(tokenizer, question))
    recorder = AttentionRecorder(engine.kernel, base.num_layers, layer, head)
    settings = GenerationConfig(max_new_tokens=max_new_tokens)
    decoder = _MassKeeper(
        base,
        engine.require_adapter(),
        memory.blocks,
        kernel=recorder,
        config=engine.config,
        max_new_tokens=max_new_tokens,
    )
    answer = None
    for piece in stream_answer(decoder, [memory], local_ids, prompt_ids, settings, tokenizer):
        answer = piece.answer
    if answer is None or not answer.token_ids:
        raise EvaluationError("The answer is empty, so there is no attention to show; ask something else.")
    count, num_chunks = len(answer.token_ids), decoder.num_chunks
    fed = [*local_ids, *answer.token_ids[:-1]]
    local = torch.zeros(count, len(fed))
    for row, step in enumerate(recorder.steps[:count]):
        local[row, : len(step) - num_chunks] = step[num_chunks:]
    return Explanation(
        document=memory.document,
        question=question,
        answer=answer.text,
        local_tokens=[tokenizer.decode([token]) for token in fed],
        answer_tokens=[tokenizer.decode([token]) for token in answer.token_ids],
        candidates=torch.stack([step[:num_chunks] for step in recorder.steps[:count]]),
        local=local,
        masses=torch.stack(decoder.masses[:count]),
        chunks=memory.chunks,
        sources=answer.sources,
        layer=layer,
        head=head,
    )


class _MassKeeper(ParallelDecoder):
    """A decoder that keeps the candidates' attention mass of every step."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        #: Of every step, float32 [num_chunks].
        self.masses: list[Tensor] = []

    def start(self, local_ids: Sequence[int], prompt_ids: Sequence[int]) -> Tensor:
        """See `ParallelDecoder.start`."""
        logits = super().start(local_ids, prompt_ids)
        self.masses.append(self.candidate_mass.cpu().clone())
        return logits

    def step(self, token: int) -> Tensor:
        """See `ParallelDecoder.step`."""
        logits = super().step(token)
        self.masses.append(self.candidate_mass.cpu().clone())
        return logits
