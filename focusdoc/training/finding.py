"""Training candidates to find: the loss of a finder's softmax over the windows of a document.

A question's dynamic prompt runs behind every chunk without gradient, as in `OrdinaryLayout`. The candidates run on top
of it with gradient, and are trained so that their attention, summed over heads with trained weights, is on the window
that answers the question, and their values say whether their chunk has it. BM25 takes part in the softmax, so the
candidates learn what the words do not tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from focusdoc.attention import AttentionKernel
from focusdoc.decoding.looking import FLOOR, POOL_WIDTH, retrieval_scores
from focusdoc.errors import TrainingError
from focusdoc.memory.chunk_memory import DocumentMemory, MemoryBlock
from focusdoc.modeling.adapter import Adapter
from focusdoc.modeling.base import BaseModel
from focusdoc.modeling.candidate import LayerWeights
from focusdoc.modeling.finding_weights import FindingWeights
from focusdoc.training.layouts import OrdinaryLayout
from focusdoc.training.weights import CandidateWeights

#: Where the finder's weights start: of token scores, relevance and BM25.
FIRST_SIGNALS = (1.2, 1.0, 6.0)
#: Weight of the loss without BM25 beside that with it.
ALONE_WEIGHT = 0.3


class FinderWeights(nn.Module):
    """The weights to train; see `FindingWeights`.

    They start from those of `adapter`, or without any from its candidates and equal weights for all heads.
    """

    def __init__(self, adapter: Adapter, base: BaseModel, rank: int, seed: int = 0) -> None:
        super().__init__()
        self.candidates = CandidateWeights(adapter, base.device, rank, seed)
        shape = base.num_layers, base.num_kv_heads, base.head_dim
        self.relevance = nn.Parameter(torch.zeros(shape, device=base.device))
        #: Softplus of these is 1.
        self.log_heads = nn.Parameter(torch.full((base.num_layers, base.num_heads), 0.5413, device=base.device))
        self.signals = nn.Parameter(torch.tensor(FIRST_SIGNALS, device=base.device))
        if adapter.finding is not None:
            self._load(adapter.finding)

    @torch.no_grad()
    def _load(self, finding: FindingWeights) -> None:
        for name, weight in finding.added.items():
            _, layer, letter, part = name.split(".")
            own = self.candidates.weights[f"{layer}_{letter}_{part}"]
            if own.shape != weight.shape:
                raise TrainingError(
                    f"{name} of the adapter's weights for finding has the shape {list(weight.shape)}, not "
                    f"{list(own.shape)}; train with their rank, or from the beginning."
                )
            own.copy_(weight)
        self.relevance.copy_(finding.relevance)
        self.log_heads.copy_(finding.heads.clamp_min(1e-6).expm1().log())
        self.signals.copy_(torch.tensor(finding.signals))

    @property
    def heads(self) -> Tensor:
        """The heads' weights, positive, [num_layers, num_heads]."""
        return functional.softplus(self.log_heads)

    @torch.no_grad()
    def trained(self) -> FindingWeights:
        """A copy of the weights as they are now."""
        added = {}
        for name, weight in self.candidates.weights.items():
            layer, letter, part = name.split("_")
            added[f"layers.{layer}.{letter}.{part}"] = weight.detach().cpu().clone()
        looked, relevant, words = self.signals.tolist()
        return FindingWeights(
            added, self.heads.cpu().clone(), self.relevance.detach().cpu().clone(), (looked, relevant, words)
        )

    def trained_adapter(self, adapter: Adapter, chunk_size: int) -> Adapter:
        """The `adapter` that training started from, with the weights as they are now.

        From an untrained one, which only has copies of the base's projections, it is low-rank and only finds.
        """
        finding = self.trained()
        if not adapter.config.training.get("untrained"):
            return replace(adapter, finding=finding)
        weights = {name: each.to(torch.bfloat16) for name, each in finding.added.items()}
        rank = next(each.shape[0] for name, each in weights.items() if name.endswith(".a"))
        changes = {"rank": rank, "chunk_size": chunk_size, "training": {"trained": "to find"}}
        return Adapter(adapter.config.model_copy(update=changes), weights, replace(finding, added={}))


@dataclass(frozen=True, slots=True)
class Lesson:
    """A document that was read, its windows, and questions.

    Attributes:
        tokens: the first and end token of each window, int64 [windows, 2].
        chunks: the chunk of each window, int64 [windows].
        questions: each question's dynamic prompt, as token ids.
        words: for each question, BM25 of the windows, relative to the best one, float32 [windows].
        holds: for each question, which windows have the answer, at least one, bool [windows].
    """

    memory: DocumentMemory
    tokens: Tensor
    chunks: Tensor
    questions: Sequence[Sequence[int]]
    words: Sequence[Tensor]
    holds: Sequence[Tensor]


@dataclass(slots=True)
class CandidateLayout:
    """The candidates of B prompts behind k chunks: rows ``[k candidates of each prompt]``; see `AttentionLayout`.

    Attributes:
        stream: the prompts' ordinary rows.
        tail_lens: rows of each prompt before its candidate, int64 [B].
        heads: weight of each head's token scores, [num_layers, num_heads].
        relevance: weights of the candidates' values, [num_layers, num_kv_heads, head_dim].
        token_scores: for each block, float32 [B, chunks, chunk_len].
        relevances: float32 [B * k].
    """

    stream: OrdinaryLayout
    tail_lens: Tensor
    heads: Tensor
    relevance: Tensor
    token_scores: list[Tensor] = field(init=False)
    relevances: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.token_scores = [torch.zeros((), device=self.heads.device) for _ in self.stream.blocks]
        self.relevances = torch.zeros((), device=self.heads.device)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        """Attention of every candidate to its chunk, its prompt and itself.

        Raises:
            TrainingError: the layer has a sliding window.
        """
        if window is not None:
            raise TrainingError(f"Layer {layer} has a sliding window of {window}; choose a model without.")
        count, chunks = self.stream.num_prompts, self.stream.num_chunks
        num_heads, num_kv_heads = query.shape[1], key.shape[1]
        self.relevances = self.relevances + torch.einsum("gnd,gd->n", value[0].float(), self.relevance[layer])
        # [1, heads, B * k, head_dim] -> [B, k, num_kv_heads, heads per KV head, head_dim]
        queries = query[0].transpose(0, 1).float() * scaling
        queries = queries.view(count, chunks, num_kv_heads, -1, query.shape[3])
        own_key, own_value = (each[0].transpose(0, 1).float().unsqueeze(2) for each in (key, value))
        # [B, k, num_kv_heads, tail + 1, head_dim]
        keys, values = (
            torch.unflatten(torch.cat((tail.float(), own), dim=2), 0, (count, chunks))
            for tail, own in zip(self.stream.tails[layer], (own_key, own_value), strict=True)
        )
        behind = torch.einsum("bngud,bngld->bngul", queries, keys)
        behind = behind.masked_fill(~self._seen(keys.shape[3])[:, None, None, None], -torch.inf)
        outputs, first = [], 0
        for index, block in enumerate(self.stream.blocks):
            at = slice(first, first := first + block.num_chunks)
            scores = torch.einsum("bngud,ngsd->bngus", queries[:, at], block.keys[layer].float())
            weights = torch.cat((scores, behind[:, at]), dim=-1).softmax(dim=-1)
            over_chunk, over_tail = torch.split(weights, [block.chunk_len, keys.shape[3]], dim=-1)
            outputs.append(
                torch.einsum("bngus,ngsd->bngud", over_chunk, block.values[layer].float())
                + torch.einsum("bngul,bngld->bngud", over_tail, values[:, at])
            )
            found = torch.stack([self._scores(each, block, layer) for each in over_chunk])
            self.token_scores[index] = self.token_scores[index] + found
        # [B, k, num_kv_heads, heads per KV head, head_dim] -> [1, B * k, heads, head_dim]
        return torch.cat(outputs, dim=1).flatten(0, 1).reshape(1, -1, num_heads, query.shape[3]).to(query.dtype)

    def _scores(self, weights: Tensor, block: MemoryBlock, layer: int) -> Tensor:
        """The tokens' scores of one layer, [chunks, chunk_len], from attention weights [chunks, kv_heads, u, len]."""
        by_head = retrieval_scores(weights.flatten(1, 2).unsqueeze(2), block.values[layer]).squeeze(2)
        return torch.einsum("nhs,h->ns", by_head, self.heads[layer])

    def _seen(self, length: int) -> Tensor:
        """Bool [B, tail + 1]: the prompt without padding, and the candidate itself, which is last."""
        places = torch.arange(length, device=self.tail_lens.device)
        return (places < self.tail_lens[:, None]) | (places == length - 1)


def signals_of(
    base: BaseModel,
    kernel: AttentionKernel,
    weights: FinderWeights,
    layers: Sequence[LayerWeights],
    lesson: Lesson,
    asked: Sequence[int],
) -> list[Tensor]:
    """For each of some questions, the finder's signals of all windows, [windows, 3], with gradient.

    They are those of `focusdoc.readers.finding.Finder`, if it scores all chunks: token scores, relevance and BM25.

    Args:
        layers: ``weights.candidates.layers(...)``.
        asked: the indices of the questions.
    """
    blocks = lesson.memory.blocks
    num_chunks, count = lesson.memory.num_chunks, len(asked)
    prompts = [lesson.questions[index] for index in asked]
    lens = torch.tensor([len(ids) - 1 for ids in prompts])
    tails = pad_sequence([torch.tensor(list(ids[:-1])) for ids in prompts], batch_first=True)
    ends = torch.cat([torch.full((block.num_chunks,), block.chunk_len) for block in blocks])
    # The layout has a local context too, which nothing needs here: one token for each prompt.
    stream = OrdinaryLayout(blocks, count, tails.shape[1], 1, kernel)
    ids = torch.cat((tails.repeat_interleave(num_chunks, dim=0).flatten(), tails[:, 0]))
    places = (ends[:, None] + torch.arange(tails.shape[1])).repeat(count, 1).flatten()
    places = torch.cat((places, torch.zeros(count, dtype=torch.long)))
    with torch.no_grad():
        base.run(ids[None].to(base.device), places[None].to(base.device), stream)
    layout = CandidateLayout(stream, lens.to(base.device), weights.heads, weights.relevance)
    last = torch.tensor([ids[-1] for ids in prompts]).repeat_interleave(num_chunks)
    places = (ends[None] + lens[:, None]).flatten()
    rows = last[None].to(base.device), places[None].to(base.device)
    base.run(*rows, layout, weights=layers, num_candidates=len(last))
    tokens = torch.cat([scores.flatten(1) for scores in layout.token_scores], dim=1)
    padded = functional.pad(tokens[:, None], (POOL_WIDTH // 2, POOL_WIDTH - POOL_WIDTH // 2 - 1))
    smooth = functional.avg_pool1d(padded, POOL_WIDTH, stride=1)[:, 0]
    relevances = layout.relevances.view(count, num_chunks)
    found = []
    for index, own, relevance in zip(asked, smooth, relevances, strict=True):
        looked = torch.stack([own[first:last].amax() for first, last in lesson.tokens.tolist()])
        looked = torch.log(looked / looked.max().clamp_min(1e-30) + FLOOR)
        found.append(torch.stack((looked, relevance[lesson.chunks], lesson.words[index].to(base.device)), dim=1))
    return found


def loss_of(signals: Tensor, holds: Tensor, weights: Tensor) -> Tensor:
    """The cross entropy of the windows with the answer, in nats, plus `ALONE_WEIGHT` of that without BM25.

    Args:
        signals: [windows, 3]. holds: bool [windows]. weights: of the signals, [3].
    """
    losses = [
        -torch.logsumexp((signals[:, :last] @ weights[:last]).log_softmax(dim=0)[holds], dim=0) for last in (3, 2)
    ]
    return losses[0] + ALONE_WEIGHT * losses[1]
