"""A look without training: the base model's own retrieval heads find passages, which it reads with its own attention.

The question runs behind every chunk with the base weights alone, the paper's dynamic prompt (FocusLLM, equation 1)
without a candidate. A few heads of any model then attend to where the answer stands (retrieval heads, arXiv
2404.15574, 2506.09944). What each takes is set against the most that it takes anywhere in the documents, so that chunks
compete, and the heads are added up. No layer above the highest of them is run for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from focusdoc.attention import AttentionKernel
from focusdoc.config import FocusConfig, GenerationConfig
from focusdoc.decoding.looking import taken_for_question
from focusdoc.decoding.parallel import MAX_ROWS
from focusdoc.decoding.plain import PlainDecoder
from focusdoc.decoding.prompt import Asked, encode_text
from focusdoc.decoding.quoting import WIDTH, Quoting
from focusdoc.decoding.state import QuestionRows, question_rows
from focusdoc.errors import PromptTooLongError
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.modeling.base import BaseModel

#: Attention weights of followed heads that a layer holds at once, which bounds its memory: 64 MB in float32.
MAX_WEIGHTS = 1 << 24


def layers_of(heads: Sequence[tuple[int, int]]) -> int:
    """How many layers, from the first one on, a look by these (layer, head) pairs runs through."""
    return 1 + max(layer for layer, _ in heads)


@dataclass(slots=True)
class LookLayout:
    """The layout of a dynamic prompt behind each chunk of `block`, as a batch; see `AttentionLayout`.

    Attributes:
        rows: those of the question, and the heads that are followed.
        taken: of every layer with such heads, what they took, float32 [chunks, heads, chunk_len].
    """

    block: MemoryBlock
    rows: QuestionRows
    kernel: AttentionKernel
    taken: list[Tensor] = field(default_factory=list)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        """Attention of the prompt over its chunk and itself in one layer."""
        if heads := self.rows.heads_of(layer):
            of_heads = [head // (query.shape[1] // key.shape[1]) for head in heads]
            stored, values = (states[:, of_heads] for states in self.block.layer(layer, key.dtype))
            keys = torch.cat((stored, key[:, of_heads, : self.rows.last]), dim=2).float()
            asked = query[:, heads, self.rows.first : self.rows.last].float() * scaling
            start = self.block.chunk_len + self.rows.first
            self.taken.append(taken_for_question(asked, keys, values, query_start=start, window=window))
        if layer + 1 == layers_of(self.rows.heads):
            return torch.zeros_like(query).transpose(1, 2)  # of the last layer nothing else is wanted
        output = self.block.attend_with(
            layer, query, (key, value), kernel=self.kernel, scaling=scaling, tail_start=0, window=window
        )
        return output.transpose(1, 2)


class LookDecoder:
    """Looks into the chunks of `blocks` for one question; then the base model writes by itself.

    Args:
        heads: (layer, head) pairs that are followed.
        chunk_batch: chunks in one pass; None for as many as a pass bears. It never changes what is found.
    """

    def __init__(
        self,
        base: BaseModel,
        blocks: Sequence[MemoryBlock],
        *,
        kernel: AttentionKernel,
        heads: Sequence[tuple[int, int]],
        chunk_batch: int | None = None,
    ) -> None:
        self.base = base
        self.kernel = kernel
        self.num_chunks = sum(block.num_chunks for block in blocks)
        self._blocks = blocks
        self._heads = tuple(sorted(heads))
        self._chunk_batch = chunk_batch
        self._plain = PlainDecoder(base)
        #: What each head took from every chunk, float32 [heads, chunk_len] each.
        self._taken: list[Tensor] = []
        #: The most that each head took anywhere, float32 [heads].
        self._most = torch.ones(len(self._heads))
        #: The most that the heads together took in each chunk, as `look_inside` has it: float32 [num_chunks].
        self.candidate_mass = torch.zeros(self.num_chunks)

    def start(self, local_ids: Sequence[int], prompt_ids: Sequence[int]) -> Tensor:
        """See `AnswerDecoder.start`: it looks for all of the prompt."""
        self.look(local_ids, prompt_ids, QuestionRows(0, len(prompt_ids)))
        return self.restart(local_ids)

    def look(self, local_ids: Sequence[int], prompt_ids: Sequence[int], question: QuestionRows) -> None:
        """See `AnswerDecoder.look`; the local context has no part in it."""
        rows = replace(question, heads=self._heads)
        lower = self.base.upto(layers_of(self._heads))
        pieces = self._pieces(len(prompt_ids), rows)
        self._taken = [taken for block in pieces for taken in self._pass(lower, block, prompt_ids, rows)]
        self._most = torch.stack([taken.amax(dim=1) for taken in self._taken]).amax(dim=0).clamp_min(1e-30)
        self.candidate_mass = torch.stack([self._together(taken).max() for taken in self._taken])

    def _pass(
        self, lower: BaseModel, block: MemoryBlock, prompt_ids: Sequence[int], rows: QuestionRows
    ) -> Iterator[Tensor]:
        layout = LookLayout(block, rows, self.kernel)
        fed = torch.tensor(prompt_ids, device=lower.device).expand(block.num_chunks, -1)
        places = block.chunk_len + torch.arange(len(prompt_ids), device=lower.device)
        lower.run_for_keys(fed, places.expand(block.num_chunks, -1), layout)
        yield from torch.cat(layout.taken, dim=1).cpu()

    def _pieces(self, prompt_len: int, rows: QuestionRows) -> Iterator[MemoryBlock]:
        """The chunks of one pass after another."""
        followed = max(len(rows.heads_of(layer)) for layer, _ in rows.heads) * (rows.last - rows.first)
        for block in self._blocks:
            bearable = min(MAX_ROWS // prompt_len, MAX_WEIGHTS // (followed * block.chunk_len))
            size = self._chunk_batch or max(1, bearable)
            for start in range(0, block.num_chunks, size):
                yield block.chunks(start, start + size)

    def _together(self, taken: Tensor) -> Tensor:
        return (taken / self._most[:, None]).sum(dim=0)

    def look_for_question(self, chunks: Sequence[int]) -> list[Tensor]:
        """See `AnswerDecoder.look_for_question`."""
        return [self._taken[index] for index in chunks]

    def look_inside(
        self, chunks: Sequence[int], token_ids: Sequence[int], masses: Tensor, *, prompt_len: int
    ) -> list[Tensor]:
        """See `AnswerDecoder.look_inside`; it is what the heads together took for the question, whatever the answer."""
        return [self._together(self._taken[index]) for index in chunks]

    def restart(self, local_ids: Sequence[int]) -> Tensor:
        """See `AnswerDecoder.restart`."""
        self._plain = PlainDecoder(self.base)
        return self._plain.start(local_ids)

    def step(self, token: int) -> Tensor:
        """Feed the chosen `token`; return the float32 logits [vocab] of the one after it."""
        return self._plain.step(token)


class Look(Quoting[LookDecoder]):
    """Answers from passages that the base model's own heads looked at.

    Args:
        heads: tells the (layer, head) pairs; asked only where there are chunks to look into.
    """

    in_front_of = "No candidates", "lower max_new_tokens"

    def __init__(
        self,
        base: BaseModel,
        config: FocusConfig,
        kernel: AttentionKernel,
        heads: Callable[[], Sequence[tuple[int, int]]],
    ) -> None:
        super().__init__(base, config, kernel)
        self.heads = heads

    def decoder(self, blocks: Sequence[MemoryBlock], max_new_tokens: int) -> LookDecoder:
        """See `OwnWay.decoder`."""
        batch = self.config.chunk_batch
        return LookDecoder(self.base, blocks, kernel=self.kernel, heads=self.heads(), chunk_batch=batch)

    def num_in_front(self, num_chunks: int) -> int:
        """See `OwnWay.num_in_front`: passages take the room of the local context."""
        return 0

    def check_room(self, document_lengths: Sequence[int], local_len: int, settings: GenerationConfig) -> None:
        """See `OwnWay.check_room`; what runs behind a chunk is kept for the time of its pass alone."""
        super().check_room(document_lengths, local_len, settings)
        behind = min(local_len, self.config.prompt_window)
        if (self.config.chunk_size or 0) + behind > self.base.context_length and document_lengths:
            raise PromptTooLongError(
                f"A chunk of {self.config.chunk_size} tokens and a question of {behind} behind it take more than the "
                f"{self.base.context_length} positions of {self.base.name}; lower chunk_size or prompt_window."
            )

    def start(self, decoder: LookDecoder, asked: Asked) -> Tensor:
        """See `OwnWay.start`: it looks for the question, where it is told from its template."""
        question = asked.said[-1][1] if asked.said else ""
        with self.base.tokenizer_lock:
            ids = encode_text(asked.tokenizer, question)
        decoder.look(asked.local_ids, asked.prompt_ids, question_rows(asked.prompt_ids, ids, ()))
        return decoder.restart(asked.local_ids)

    def start_behind(
        self, decoder: LookDecoder, ids: Sequence[int], local_ids: list[int], prompt_ids: list[int], new_tokens: int
    ) -> Tensor:
        """See `OwnWay.start_behind`: the tokens looked at most stand in front of the local context, in order."""
        logits = decoder.start(local_ids, prompt_ids)
        room = min(self.config.quote_tokens or 0, self.positions_left(0, len(local_ids), new_tokens))
        quoted: set[int] = set()
        for chunk, centre in self.points(decoder, prompt_ids):
            at = chunk * (self.config.chunk_size or 0) + centre
            more = quoted | set(range(max(0, at - WIDTH // 2), min(len(ids), at + WIDTH // 2)))
            if len(more) > room:
                break
            quoted = more
        return decoder.restart([*(ids[at] for at in sorted(quoted)), *local_ids]) if quoted else logits
