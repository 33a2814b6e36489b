"""The look: answering without training, by following the base model's own retrieval heads.

The question runs behind every chunk with the base weights, as the paper's dynamic prompt (FocusLLM, equation 1) without
a candidate. A few heads of any model then attend to where the answer is (retrieval heads, arXiv 2404.15574,
2506.09944). Each head's scores are divided by its maximum over all documents, so that chunks compete, and the heads are
summed. Layers above the highest of these heads do not run. The model reads the best passages with ordinary attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace

import torch
from torch import Tensor

from focusdoc.attention import AttentionKernel
from focusdoc.config import GenerationConfig
from focusdoc.decoding.looking import question_retrieval_scores
from focusdoc.decoding.plain import PlainDecoder
from focusdoc.decoding.prompt import Request, encode_text
from focusdoc.decoding.quoting import WIDTH, Quoting
from focusdoc.decoding.state import QuestionRows, question_rows
from focusdoc.decoding.sweep import MAX_ROWS
from focusdoc.errors import PromptTooLongError
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.modeling.base import BaseModel

#: Attention weights of retrieval heads held at once in a layer: 64 MB in float32.
MAX_WEIGHTS = 1 << 24


def num_layers_for(heads: Sequence[tuple[int, int]]) -> int:
    """The number of lower layers that these (layer, head) pairs need."""
    return 1 + max(layer for layer, _ in heads)


@dataclass(slots=True)
class LookLayout:
    """The layout of a dynamic prompt behind each chunk of `block`, as a batch; see `AttentionLayout`.

    Attributes:
        rows: the question's rows, and the retrieval heads.
        scores: for each layer with retrieval heads, their scores, float32 [chunks, heads, chunk_len].
    """

    block: MemoryBlock
    rows: QuestionRows
    kernel: AttentionKernel
    scores: list[Tensor] = field(default_factory=list)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        """Attention of the prompt over its chunk and itself in one layer, recording the heads' scores."""
        if heads := self.rows.heads_of(layer):
            kv_heads = [head // (query.shape[1] // key.shape[1]) for head in heads]
            stored, values = (states[:, kv_heads] for states in self.block.layer(layer, key.dtype))
            keys = torch.cat((stored, key[:, kv_heads, : self.rows.last]), dim=2).float()
            queries = query[:, heads, self.rows.first : self.rows.last].float() * scaling
            start = self.block.chunk_len + self.rows.first
            self.scores.append(question_retrieval_scores(queries, keys, values, query_start=start, window=window))
        if layer + 1 == num_layers_for(self.rows.heads):
            return torch.zeros_like(query).transpose(1, 2)  # the last layer's output is not used
        output = self.block.attend_with(
            layer, query, (key, value), kernel=self.kernel, scaling=scaling, tail_start=0, window=window
        )
        return output.transpose(1, 2)


@dataclass(eq=False)
class LookDecoder:
    """Scores the chunks of `blocks` for one question; then the base model decodes alone.

    Attributes:
        heads: the retrieval heads, (layer, head) pairs.
        chunk_batch: chunks per pass; None for as many as memory allows. It does not change the results.
    """

    base: BaseModel
    blocks: Sequence[MemoryBlock]
    _: KW_ONLY
    kernel: AttentionKernel
    heads: Sequence[tuple[int, int]]
    chunk_batch: int | None = None

    def __post_init__(self) -> None:
        self.num_chunks = sum(block.num_chunks for block in self.blocks)
        self._heads = tuple(sorted(self.heads))
        self._plain = PlainDecoder(self.base)
        #: Each head's scores in every chunk, float32 [heads, chunk_len] each.
        self._head_scores: list[Tensor] = []
        #: Each head's maximum over all chunks, float32 [heads].
        self._head_max = torch.ones(len(self._heads))
        #: Each chunk's maximum of the combined scores, float32 [num_chunks].
        self.candidate_mass = torch.zeros(self.num_chunks)
        self.relevance = self.finding = None

    def start(self, local_ids: Sequence[int], prompt_ids: Sequence[int]) -> Tensor:
        """See `AnswerDecoder.start`; the whole prompt counts as the question."""
        self.look(local_ids, prompt_ids, QuestionRows(0, len(prompt_ids)))
        return self.restart(local_ids)

    def look(self, local_ids: Sequence[int], prompt_ids: Sequence[int], question: QuestionRows) -> None:
        """See `AnswerDecoder.look`; the local context is not used."""
        self._head_scores = self.head_scores(prompt_ids, question)
        self._head_max = torch.stack([scores.amax(dim=1) for scores in self._head_scores]).amax(dim=0).clamp_min(1e-30)
        self.candidate_mass = torch.stack([self._combined_scores(scores).max() for scores in self._head_scores])

    def head_scores(self, prompt_ids: Sequence[int], question: QuestionRows) -> list[Tensor]:
        """Each head's scores in every chunk, float32 [heads, chunk_len] each."""
        rows = replace(question, heads=self._heads)
        lower = self.base.first_layers(num_layers_for(self._heads))
        fed, places = torch.tensor(prompt_ids, device=lower.device), torch.arange(len(prompt_ids), device=lower.device)
        found: list[Tensor] = []
        for block in self._chunk_batches(len(prompt_ids), rows):
            layout, count = LookLayout(block, rows, self.kernel), block.num_chunks
            lower.run_kv_only(fed.expand(count, -1), (block.chunk_len + places).expand(count, -1), layout)
            found.extend(torch.cat(layout.scores, dim=1).cpu())
        return found

    def _chunk_batches(self, prompt_len: int, rows: QuestionRows) -> Iterator[MemoryBlock]:
        """The chunks in batches, one per pass."""
        num_queries = max(len(rows.heads_of(layer)) for layer, _ in rows.heads) * (rows.last - rows.first)
        for block in self.blocks:
            fitting = min(MAX_ROWS // prompt_len, MAX_WEIGHTS // (num_queries * block.chunk_len))
            size = self.chunk_batch or max(1, fitting)
            for start in range(0, block.num_chunks, size):
                yield block.chunks(start, start + size)

    def _combined_scores(self, scores: Tensor) -> Tensor:
        return (scores / self._head_max[:, None]).sum(dim=0)

    def question_token_scores(self, chunks: Sequence[int]) -> list[Tensor]:
        """See `AnswerDecoder.question_token_scores`."""
        return [self._head_scores[index] for index in chunks]

    def answer_token_scores(
        self, chunks: Sequence[int], token_ids: Sequence[int], masses: Tensor, *, prompt_len: int
    ) -> list[Tensor]:
        """See `AnswerDecoder.answer_token_scores`; the combined scores for the question, whatever the answer."""
        return [self._combined_scores(self._head_scores[index]) for index in chunks]

    def restart(self, local_ids: Sequence[int]) -> Tensor:
        """See `AnswerDecoder.restart`."""
        self._plain = PlainDecoder(self.base)
        return self._plain.start(local_ids)

    def step(self, token: int) -> Tensor:
        """Feed the chosen `token`; return the float32 logits [vocab] of the next one."""
        return self._plain.step(token)


@dataclass(eq=False)
class Look(Quoting[LookDecoder]):
    """Answers from passages found by the base model's retrieval heads, which `heads` returns if there are chunks."""

    overflow_message = "No candidates", "lower max_new_tokens"

    heads: Callable[[], Sequence[tuple[int, int]]]

    def decoder(self, blocks: Sequence[MemoryBlock], max_new_tokens: int) -> LookDecoder:
        """See `OwnWay.decoder`."""
        batch = self.config.chunk_batch
        return LookDecoder(self.base, blocks, kernel=self.kernel, heads=self.heads(), chunk_batch=batch)

    def num_candidate_positions(self, num_chunks: int) -> int:
        """See `OwnWay.num_candidate_positions`: none; passages count as local context."""
        return 0

    def check_room(self, document_lengths: Sequence[int], local_len: int, settings: GenerationConfig) -> None:
        """See `OwnWay.check_room`; tails are kept only during their pass."""
        super().check_room(document_lengths, local_len, settings)
        behind = min(local_len, self.config.prompt_window)
        if (self.config.chunk_size or 0) + behind > self.base.context_length and document_lengths:
            raise PromptTooLongError(
                f"A chunk of {self.config.chunk_size} tokens and a question of {behind} behind it take more than the "
                f"{self.base.context_length} positions of {self.base.name}; lower chunk_size or prompt_window."
            )

    def start(self, decoder: LookDecoder, request: Request) -> Tensor:
        """See `OwnWay.start`; scores for the question without its template, where it can be located."""
        question = request.messages[-1][1] if request.messages else ""
        with self.base.tokenizer_lock:
            ids = encode_text(request.tokenizer, question)
        decoder.look(request.local_ids, request.prompt_ids, question_rows(request.prompt_ids, ids, ()))
        return decoder.restart(request.local_ids)

    def start_from_tokens(
        self, decoder: LookDecoder, ids: Sequence[int], local_ids: list[int], prompt_ids: list[int], new_tokens: int
    ) -> Tensor:
        """See `OwnWay.start_from_tokens`: puts the best-scoring tokens in front of the local context, in order."""
        logits = decoder.start(local_ids, prompt_ids)
        room = min(self.config.quote_tokens or 0, self.positions_left(0, len(local_ids), new_tokens))
        quoted: set[int] = set()
        for chunk, centre in self.points(decoder, prompt_ids):
            at = chunk * (self.config.chunk_size or 0) + centre
            marked = quoted | set(range(max(0, at - WIDTH // 2), min(len(ids), at + WIDTH // 2)))
            if len(marked) > room:
                break
            quoted = marked
        return decoder.restart([*(ids[at] for at in sorted(quoted)), *local_ids]) if quoted else logits
