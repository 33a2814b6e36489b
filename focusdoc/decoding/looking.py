"""Retrieval scores: which tokens of a chunk the retrieval heads attend to, and the passages an answer comes from.

Attention averaged over heads is mostly noise: most of it is on the first tokens of a text (attention sinks), whose
values are small, and a little on every frequent word. The few retrieval heads put most of their attention on one
place, and the values there are large.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from focusdoc.attention import visibility
from focusdoc.decoding.answer import Source
from focusdoc.decoding.generation import AnswerDecoder
from focusdoc.decoding.state import ChunkGroup, QuestionRows
from focusdoc.decoding.sweep import CandidateQueries
from focusdoc.documents import Document
from focusdoc.documents.chunking import Chunk, char_span
from focusdoc.documents.sentences import whole_sentences
from focusdoc.memory.chunk_memory import DocumentMemory

#: The first tokens of a text are attention sinks; their scores are set to 0.
SINK_TOKENS = 4
#: Window in tokens over which a head's attention is pooled around each token.
POOL_WIDTH = 16
#: Added to scores relative to the largest before the logarithm, so that differences below it do not count.
FLOOR = 0.02
#: Tokens of a passage around the highest score, before it is widened to whole sentences.
PASSAGE_TOKENS = 48


def retrieval_scores(weights: Tensor, values: Tensor) -> Tensor:
    """Score of each token per head: the head's contribution from it, times its contribution from the tokens around it.

    The contribution is the attention weight times the norm of the token's value, relative to the chunk's mean norm. The
    product makes scores quadratic: a head with weight 0.9 on a place counts 81 times as much as one with 0.1, not 9.

    Args:
        weights: float32 [chunks, num_heads, rows, chunk_len].
        values: [chunks, num_kv_heads, chunk_len, head_dim].
    """
    lengths = torch.linalg.vector_norm(values, dim=-1, dtype=torch.float32)
    lengths = lengths / lengths.mean(dim=-1, keepdim=True)
    lengths[..., :SINK_TOKENS] = 0
    taken = weights * lengths.repeat_interleave(weights.shape[1] // values.shape[1], dim=1).unsqueeze(2)
    # [chunks, num_heads, rows, chunk_len] -> [all rows, 1, chunk_len]
    padded = functional.pad(taken, (POOL_WIDTH // 2, POOL_WIDTH - POOL_WIDTH // 2 - 1)).flatten(0, 2).unsqueeze(1)
    around = functional.avg_pool1d(padded, POOL_WIDTH, stride=1) * POOL_WIDTH
    product: Tensor = taken * around.view_as(taken)
    return product


def question_retrieval_scores(
    queries: Tensor, keys: Tensor, values: Tensor, *, query_start: int, window: int | None
) -> Tensor:
    """Scores of each token for a question behind the chunks: float32 [chunks, heads, chunk_len].

    These are `retrieval_scores` summed over the question's rows.

    Args:
        queries: the question's rows, scaled, float32 [chunks, heads, rows, head_dim].
        keys: chunk and tail up to the last row, float32 [chunks, heads, chunk_len + tail_len, head_dim].
        values: of the chunk, [chunks, heads, chunk_len, head_dim].
        query_start: position of the first row.
        window: the layer's sliding window, or None.
    """
    scores = queries @ keys.mT
    seen = visibility(queries.shape[2], keys.shape[2], query_start=query_start, window=window, device=keys.device)
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    return retrieval_scores(scores.softmax(dim=-1)[..., : values.shape[2]], values).sum(dim=2)


#: The chunks to score by their index among all chunks, each with its tail, alone.
Scored = Mapping[int, ChunkGroup]


def candidate_scores(
    groups: Scored, recorded: Sequence[Sequence[CandidateQueries]], tail_len: int, heads: Tensor | None = None
) -> dict[int, Tensor]:
    """For each chunk, scores of its tokens by the candidates of the first sweeps: float32 [chunk_len] each.

    These are `retrieval_scores` summed over heads and layers.

    Args:
        recorded: for each sweep, in chunk order, its candidates' queries in every layer.
        tail_len: tokens of the dynamic prompt before the candidate.
        heads: weights of the heads in the sum, float32 [num_layers, num_heads]; None for 1 each.
    """
    layers = list(zip(*recorded, strict=True))

    def score(same: Scored) -> Tensor:
        total = torch.zeros(())
        for layer, rows in enumerate(layers):
            by_head = _candidate_layer_scores(same, layer, rows, tail_len)
            total = total + (by_head.sum(dim=1) if heads is None else torch.einsum("nhs,h->ns", by_head, heads[layer]))
        return total

    return _by_length(groups, score)


def question_scores(
    groups: Scored, recorded: Sequence[Sequence[CandidateQueries]], rows: QuestionRows
) -> dict[int, Tensor]:
    """For each chunk, scores of its tokens by the retrieval heads: float32 [heads, chunk_len] each.

    These are `retrieval_scores` summed over the question's rows; heads as in ``rows.heads``.

    Args:
        recorded: as for `candidate_scores`, of sweeps that recorded `rows`.
    """
    layers = {layer: [sweep[layer] for sweep in recorded] for layer, _ in rows.heads}

    def score(same: Scored) -> Tensor:
        return torch.cat([_question_layer_scores(same, layer, own, rows) for layer, own in layers.items()], dim=1)

    return _by_length(groups, score)


def _by_length(groups: Scored, score: Callable[[Scored], Tensor]) -> dict[int, Tensor]:
    """The scores of all chunks of a length at once, [chunks, ...], by chunk and in RAM."""
    found: dict[int, Tensor] = {}
    for length in {group.chunk_len for group in groups.values()}:
        same = {chunk: group for chunk, group in groups.items() if group.chunk_len == length}
        found |= zip(same, score(same).cpu(), strict=True)
    return found


def _candidate_layer_scores(groups: Scored, layer: int, sweeps: Sequence[CandidateQueries], tail_len: int) -> Tensor:
    """Candidate scores of one layer for chunks of one length, float32 [chunks, heads, chunk_len]."""
    chunks = list(groups)
    # [heads, all chunks, head_dim] -> [chunks, heads, head_dim]
    queries = torch.cat([rows.queries for rows in sweeps], dim=1)[:, chunks].transpose(0, 1)
    own = torch.cat([rows.keys for rows in sweeps], dim=1)[:, chunks].transpose(0, 1)
    keys, values = _gather_kv(groups, layer, tail_len, own.dtype, extra=1)
    keys[:, :, -1] = own
    # [chunks, heads, head_dim] -> [chunks, num_kv_heads, heads per KV head, head_dim]
    scores = torch.unflatten(queries, 1, (own.shape[1], -1)) @ keys.mT
    num_keys = keys.shape[2]
    seen = visibility(1, num_keys, query_start=num_keys - 1, window=sweeps[0].window, device=own.device)
    if seen is not None:
        scores = scores.masked_fill(~seen[0], -torch.inf)
    weights = scores.softmax(dim=-1)[..., : values.shape[2]]
    # [chunks, num_kv_heads, heads per KV head, chunk_len] -> [chunks, heads, 1, chunk_len]
    return retrieval_scores(weights.flatten(1, 2).unsqueeze(2), values).squeeze(2)


def _question_layer_scores(
    groups: Scored, layer: int, sweeps: Sequence[CandidateQueries], rows: QuestionRows
) -> Tensor:
    """Question scores of one layer's retrieval heads for chunks of one length, float32 [chunks, heads, chunk_len]."""
    # [chunks, heads, rows, head_dim]
    queries = torch.cat([sweep.question for sweep in sweeps if sweep.question is not None])[list(groups)]
    keys, values = _gather_kv(groups, layer, rows.last, sweeps[0].keys.dtype)
    per_key = sweeps[0].queries.shape[0] // keys.shape[1]
    kv_heads = [head // per_key for head in rows.heads_of(layer)]
    keys, values = keys[:, kv_heads], values[:, kv_heads]
    start = values.shape[2] + rows.first
    return question_retrieval_scores(queries, keys, values, query_start=start, window=sweeps[0].window)


def _gather_kv(groups: Scored, layer: int, tail_len: int, dtype: torch.dtype, extra: int = 0) -> tuple[Tensor, Tensor]:
    """Float32 keys of chunks and tails, with `extra` uninitialized slots at the end, and the chunks' values.

    Returns:
        Both [chunks, num_kv_heads, tokens, head_dim].
    """
    group = next(iter(groups.values()))
    chunk_len, (num_kv_heads, _, head_dim) = group.chunk_len, group.tail_keys.shape[2:]
    shape = (len(groups), num_kv_heads, chunk_len + tail_len + extra, head_dim)
    keys = torch.empty(shape, device=group.tail_keys.device)
    values = group.tail_keys.new_empty((*shape[:2], chunk_len, head_dim))
    for row, group in enumerate(groups.values()):
        stored_keys, stored_values = group.block.layer(layer, dtype)
        keys[row, :, :chunk_len], values[row] = stored_keys[0], stored_values[0]
        keys[row, :, chunk_len : chunk_len + tail_len] = group.tail_keys[layer, 0, :, :tail_len]
    return keys, values


def chunk_shares(masses: Tensor) -> Tensor:
    """Each chunk's share of the attention mass; `masses` is [steps, num_chunks]."""
    per_chunk = masses.sum(dim=0)
    return per_chunk / per_chunk.sum().clamp_min(torch.finfo(torch.float32).tiny)


def page_shares(document: Document, chunks: Sequence[Chunk], shares: Sequence[float]) -> dict[int, float]:
    """Each page's share of the attention, by its number; a chunk's share is divided by characters among its pages."""
    found = {page.number: 0.0 for page in document.pages}
    for chunk, share in zip(chunks, shares, strict=True):
        length = max(1, chunk.char_end - chunk.char_start)
        for page in document.pages_between(chunk.char_start, chunk.char_end):
            overlap = min(page.end, chunk.char_end) - max(page.start, chunk.char_start)
            found[page.number] += share * max(0, overlap) / length
    return found


def find_sources(
    decoder: AnswerDecoder,
    memories: Sequence[DocumentMemory],
    token_ids: Sequence[int],
    masses: Tensor,
    *,
    prompt_len: int,
    limit: int = 3,
) -> tuple[Source, ...]:
    """The passages that support an answer, ordered by their chunks' attention mass.

    Args:
        decoder: in its state after the answer.
        memories: the documents whose chunks the decoder has, in order.
        token_ids, masses, prompt_len: see `AnswerDecoder.answer_token_scores`.
        limit: maximum number of sources.
    """
    if any(memory.document is None for memory in memories):
        return ()  # made from bare token ids, so there is no text to quote
    shares = chunk_shares(masses)
    ranked: list[int] = shares.argsort(descending=True)[:limit].tolist()
    owners = [(memory, chunk) for memory in memories for chunk in memory.chunks]
    scores = decoder.answer_token_scores(ranked, token_ids, masses, prompt_len=prompt_len)
    sources = []
    for index, attention in zip(ranked, scores, strict=True):
        memory, chunk = owners[index]
        if memory.document is None or memory.tokenized is None:
            continue
        first, last, centre = passage_tokens(attention)
        begin, stop = char_span(memory.tokenized, chunk.token_start + first, chunk.token_start + last)
        page = memory.document.page_at(
            char_span(memory.tokenized, chunk.token_start + centre, chunk.token_start + last)[0]
        )
        # The passage stays on the page of its highest-scoring token.
        start, end = whole_sentences(memory.document.text, max(begin, page.start), min(stop, page.end))
        start, end = max(start, page.start), min(end, page.end)
        if start >= end:
            continue  # white space
        sources.append(
            Source(
                page=page.number,
                start=start,
                end=end,
                text=memory.document.text[start:end],
                score=float(shares[index]),
                chunk=chunk.index,
                document=memory.document.name,
                page_label=page.label,
            )
        )
    return tuple(sources)


def passage_tokens(attention: Tensor) -> tuple[int, int, int]:
    """The tokens [first, last) around the highest scores in `attention` [chunk_len], and the centre of those."""
    length = len(attention)
    if length <= PASSAGE_TOKENS:
        return 0, length, int(attention.argmax())
    width = PASSAGE_TOKENS // 3
    smooth = functional.avg_pool1d(attention[None, None], width, stride=1)[0, 0]
    centre = int(smooth.argmax()) + width // 2
    first = min(max(0, centre - PASSAGE_TOKENS // 2), length - PASSAGE_TOKENS)
    return first, first + PASSAGE_TOKENS, centre
