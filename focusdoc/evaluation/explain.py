"""Where an answer looked: attention over chunks and local tokens, and chunk mass (the paper's Figures 7 and 8)."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from focusdoc.decoding.answer import Source
from focusdoc.decoding.prompt import local_and_prompt, question_prompt
from focusdoc.documents import Document
from focusdoc.documents.chunking import Chunk
from focusdoc.engine import FocusEngine
from focusdoc.errors import EvaluationError
from focusdoc.evaluation.engines import tokenizer_of
from focusdoc.evaluation.recorders import CandidateRecorder
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
        masses: float32 [answer tokens, chunks], the same over all layers and heads.
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
        """Each chunk's share of the attention that all chunks got, by their candidates, over the whole answer."""
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


def check_layer_and_head(engine: FocusEngine, layer: int | None, head: int | None) -> None:
    """Raise EvaluationError unless there are candidates and such a layer and head; no document need be read for it."""
    base = engine.base
    if engine.config.looks:
        raise EvaluationError(
            f"{base.name} has no adapter, and what is explained is the attention to candidates; pass an adapter. The "
            "sources of an answer tell what its own heads looked at."
        )
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
        EvaluationError: there are no candidates, there is no such layer or head, or the answer is empty.
        PromptTooLongError, AdapterError: as `FocusEngine.ask`.
    """
    base = engine.base
    check_layer_and_head(engine, layer, head)
    if memory.document is None:
        raise EvaluationError("This memory was made from bare token ids; read a document to explain answers over it.")
    engine.check_question(question, max_new_tokens=max_new_tokens)
    tokenizer = tokenizer_of(engine)
    with base.tokenizer_lock:
        local_ids, _ = local_and_prompt(base, engine.config, question_prompt(tokenizer, question))
    recorder = CandidateRecorder(engine.kernel, base.num_layers, memory.num_chunks, layer, head)
    watched = copy(engine)
    watched.config = replace(engine.config, quote_tokens=0)  # what the answer owes to the candidates alone
    watched.kernel = recorder
    answer = watched.ask(memory, question, max_new_tokens=max_new_tokens)
    if not answer.token_ids:
        raise EvaluationError("The answer is empty, so there is no attention to show; ask something else.")
    count, num_chunks = len(answer.token_ids), memory.num_chunks
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
        masses=torch.stack(recorder.masses[:count]),
        chunks=memory.chunks,
        sources=answer.sources,
        layer=layer,
        head=head,
    )
