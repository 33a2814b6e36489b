"""The attention behind an answer: to candidates and local tokens, and chunk mass (the paper's Figures 7 and 8)."""

from __future__ import annotations

import html
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from focusdoc.attention import AttentionKernel, attention_weights
from focusdoc.decoding.answer import Answer
from focusdoc.decoding.looking import chunk_shares, page_shares
from focusdoc.decoding.prompt import local_and_prompt, question_prompt, tokenizer_of
from focusdoc.documents import Document
from focusdoc.documents.chunking import Chunk
from focusdoc.engine import FocusEngine
from focusdoc.errors import EvaluationError
from focusdoc.evaluation.loading import needed
from focusdoc.evaluation.page import document, heat_maps, picture
from focusdoc.memory.chunk_memory import DocumentMemory
from focusdoc.terminal import plain

if TYPE_CHECKING:
    import pandas as pd

#: Most columns of a heat map: the last local tokens, or the chunks with the most attention.
MAX_COLUMNS = 48
_STYLE = (
    ".answer{font-size:1.1rem;border-left:4px solid #c33;padding-left:.8rem}"
    ".page{white-space:pre-wrap;overflow-wrap:anywhere;border:1px solid #ddd;margin:.6rem 0;padding:.6rem;"
    "font-size:.85rem;max-height:22rem;overflow-y:auto}h3{margin:1.2rem 0 0;font-size:1rem}"
    "ol.sources li{margin:.4rem 0}"
)


@dataclass(eq=False)
class _Recorder:
    """An attention kernel that records the attention of the newest local token at every step.

    Attributes:
        steps: for every step float32 [chunks + local tokens], of `layer` and `head`; None is for the mean over all.
        masses: for every step float32 [chunks], the mean over all layers and heads.
    """

    kernel: AttentionKernel
    num_layers: int
    num_chunks: int
    layer: int | None
    head: int | None
    steps: list[Tensor] = field(default_factory=list)
    masses: list[Tensor] = field(default_factory=list)
    _layers: list[Tensor] = field(default_factory=list)  # of the current step so far

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, *, query_start: int, prefix: int = 0, **settings: Any
    ) -> tuple[Tensor, Tensor]:
        """See `focusdoc.attention.naive.attend`."""
        if prefix:  # the call in each layer over candidates and local tokens
            last = query_start + query.shape[2] - 1
            weights, _ = attention_weights(query[:, :, -1:], key, query_start=last, prefix=prefix, **settings)
            self._layers.append(weights[0, :, 0].cpu())
        if len(self._layers) == self.num_layers:
            every = torch.stack(self._layers)  # [layers, heads, chunks + local tokens]
            layers = every if self.layer is None else every[self.layer, None]
            heads = layers if self.head is None else layers[:, self.head, None]
            self.steps.append(heads.mean(dim=(0, 1)))
            self.masses.append(every[..., : self.num_chunks].mean(dim=(0, 1)))
            self._layers.clear()
        return self.kernel(query, key, value, query_start=query_start, prefix=prefix, **settings)


@dataclass(frozen=True, eq=False)
class Explanation:
    """One answer with the attention behind each of its tokens.

    Attributes:
        local_tokens: the local context and the answer (without its last token), as text.
        answer_tokens: the answer's tokens as text, one per row of the matrices.
        candidates: float32 [answer tokens, chunks], attention from the newest local token to each chunk's candidate, in
            the layer and head of `where`.
        local: float32 [answer tokens, local tokens], attention to the local tokens; 0 for later tokens.
        masses: float32 [answer tokens, chunks], attention to the candidates, the mean over all layers and heads.
        where: the layer and head in words.
    """

    document: Document
    question: str
    answer: Answer
    local_tokens: Sequence[str]
    answer_tokens: Sequence[str]
    candidates: Tensor
    local: Tensor
    masses: Tensor
    chunks: Sequence[Chunk]
    where: str


def check_layer_and_head(engine: FocusEngine, layer: int | None, head: int | None) -> None:
    """Raise EvaluationError unless the engine has an adapter and such a layer and head."""
    base = engine.base
    if engine.config.looks:
        raise EvaluationError(
            f"{base.name} has no adapter that answers, but only attention to candidates can be explained; pass one. "
            "Without it, the sources of an answer show what the model's own heads attended to."
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
    """Answer a question and record the attention behind every token of the answer, as in `Explanation`.

    Raises:
        EvaluationError: there is no adapter, no such layer or head, or the answer is empty.
        PromptTooLongError, AdapterError: as `FocusEngine.ask`.
    """
    base = engine.base
    check_layer_and_head(engine, layer, head)
    if memory.document is None:
        raise EvaluationError("This memory was made from bare token ids; read a document to explain answers over it.")
    engine.check_question(question, max_new_tokens=max_new_tokens)
    tokenizer = tokenizer_of(base)
    with base.tokenizer_lock:
        local_ids, _ = local_and_prompt(base, engine.config, question_prompt(tokenizer, question))
    recorder = _Recorder(engine.kernel, base.num_layers, memory.num_chunks, layer, head)
    recorded = copy(engine)
    recorded.config = replace(engine.config, quote_tokens=0)  # an answer from the candidates alone
    recorded.kernel = recorder
    answer = recorded.ask(memory, question, max_new_tokens=max_new_tokens)
    if not answer.token_ids:
        raise EvaluationError("The answer is empty, so there is no attention to show; ask something else.")
    num_chunks = memory.num_chunks
    steps = recorder.steps[: len(answer.token_ids)]
    layers, heads = "all layers" if layer is None else f"layer {layer}", "all heads" if head is None else f"head {head}"
    return Explanation(
        document=memory.document,
        question=question,
        answer=answer,
        local_tokens=[tokenizer.decode([token]) for token in (*local_ids, *answer.token_ids[:-1])],
        answer_tokens=[tokenizer.decode([token]) for token in answer.token_ids],
        candidates=torch.stack([step[:num_chunks] for step in steps]),
        local=pad_sequence([step[num_chunks:] for step in steps], batch_first=True),
        masses=torch.stack(recorder.masses[: len(steps)]),
        chunks=memory.chunks,
        where=f"{layers}, {heads}",
    )


def explanation_page(found: Explanation) -> str:
    """An HTML page: question and answer, heat maps, and the document coloured by chunk mass; all text is escaped."""
    body = [
        f"<h1>{_text(found.document.name)}</h1>",
        f"<p><b>{_text(found.question)}</b></p><p class='answer'>{_text(found.answer.text.strip())}</p>",
        picture(explanation_png(found), f"Attention behind the answer, {found.where}"),
        "<h2>Sources</h2><ol class='sources'>",
        *(f"<li>page {one.page}, {one.score:.0%}: {_text(one.text)}</li>" for one in found.answer.sources),
        "</ol><h2>The document by chunk mass</h2>",
        "<p class='note'>The stronger the colour, the larger the chunk's share of the answer's attention to all "
        "candidates.</p>",
        *_pages(found),
    ]
    return document(f"{found.document.name}: {found.question}", "\n".join(body), _STYLE)


def _pages(found: Explanation) -> list[str]:
    """The document's pages that have text; the stronger the colour of a chunk, the larger its share."""
    shares: list[float] = chunk_shares(found.masses).tolist()
    strongest, of_page = max(shares), page_shares(found.document, found.chunks, shares)
    parts: list[str] = []
    for page in found.document.pages:
        if page.end == page.start:
            continue
        label = "" if page.label in (None, str(page.number)) else f" ({_text(page.label)})"
        parts.append(f"<h3>Page {page.number}{label}: {of_page[page.number]:.1%}</h3><div class='page'>")
        for chunk, share in zip(found.chunks, shares, strict=True):
            start, end = max(page.start, chunk.char_start), min(page.end, chunk.char_end)
            if start < end:
                colour = f"rgba(220,60,40,{0.6 * share / strongest if strongest else 0.0:.3f})"
                opening = f'<span title="chunk {chunk.index}: {share:.1%}" style="background:{colour}">'
                parts.append(f"{opening}{_text(found.document.text[start:end])}</span>")
        parts.append("</div>")
    return parts


def explanation_png(found: Explanation) -> bytes:
    """Three stacked heat maps: candidates, local tokens, and chunk mass."""
    rows = [_label(token) for token in found.answer_tokens]
    best = sorted(found.masses.sum(dim=0).topk(min(MAX_COLUMNS, len(found.chunks))).indices.tolist())
    chunks = [found.chunks[index].index for index in best]
    local = [_label(token) for token in found.local_tokens[-MAX_COLUMNS:]]

    def panel(cells: Tensor, columns: Sequence[object], name: str) -> pd.DataFrame:
        grid = needed("pandas", "plot").DataFrame(cells.tolist(), index=rows, columns=columns)
        return grid.rename_axis(columns=name)

    to_local = panel(found.local[:, -len(local) :], local, "local token")
    panels = {
        f"Attention to the candidates, {found.where}": panel(found.candidates[:, best], chunks, "chunk"),
        f"Attention to the last {len(local)} local tokens, {found.where}": to_local,
        "Chunk mass for every token of the answer, all layers and heads": panel(found.masses[:, best], chunks, "chunk"),
    }
    return heat_maps(panels)


def _label(token: str) -> str:
    """A token as a label: white space becomes visible, and ``$`` is escaped from matplotlib's formulas."""
    return plain(token).replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·").replace("$", r"\$") or "∅"


def _text(text: str) -> str:
    return html.escape(plain(text))
