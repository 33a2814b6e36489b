"""Direct mode: a base model without candidate projections reads its answer straight from the chunks' stored KV.

Every local row attends to every chunk, each at its own positions, and to the local context behind them; the parts are
merged exactly by their log-sum-exp. So all chunks stand side by side at the same positions, as in APE (arXiv
2502.05431) and Star Attention (arXiv 2411.17116). Nothing is trained, and nothing keeps the chunks apart either: it
holds near the model's own context length and fades beyond it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from focusdoc.attention import AttentionKernel
from focusdoc.decoding.answering import OwnWay
from focusdoc.decoding.looking import QuestionRows, gathered
from focusdoc.decoding.sweep import LocalContext
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.modeling.base import BaseModel

#: Local rows times chunks of one attention call, which bounds its memory.
MAX_PAIRS = 16_384


class DirectDecoder:
    """Decodes one answer over the chunks of `blocks` with the base weights alone.

    Args:
        blocks: the chunks' KV, at least one chunk.
        start: position of the first local token: the chunk size, and the anchor if chunks have one.
        max_new_tokens: how many steps to keep room for.
    """

    def __init__(
        self,
        base: BaseModel,
        blocks: Sequence[MemoryBlock],
        *,
        kernel: AttentionKernel,
        start: int,
        max_new_tokens: int,
    ) -> None:
        self.base = base
        self.blocks = blocks
        self.kernel = kernel
        self.num_chunks = sum(block.num_chunks for block in blocks)
        self._start = start
        self._max_new_tokens = max_new_tokens
        #: Attention mass that the newest local token paid to each chunk: float32 [num_chunks], mean over layers and
        #: heads.
        self.candidate_mass = torch.zeros(self.num_chunks)

    @torch.no_grad()
    def start(
        self, local_ids: Sequence[int], prompt_ids: Sequence[int] = (), question: QuestionRows | None = None
    ) -> Tensor:
        """Encode the local context behind the chunks; nothing runs behind each of them, so the others have no part.

        Returns:
            Float32 logits [vocab] of the first new token.
        """
        base, room = self.base, len(local_ids) + self._max_new_tokens
        shape = (base.num_layers, base.num_kv_heads, room, base.head_dim)
        keys, values = (torch.empty(shape, dtype=base.dtype, device=base.device) for _ in range(2))
        self._local = LocalContext(keys, values, num_candidates=0)
        return self._feed(list(local_ids))

    @torch.no_grad()
    def step(self, token: int) -> Tensor:
        """Feed the chosen `token`; return the float32 logits [vocab] of the one after it."""
        return self._feed([token])

    def _feed(self, token_ids: list[int]) -> Tensor:
        layout = DirectLayout(self.blocks, self._local, self.kernel)
        hidden = self._run(token_ids, self._local.length, layout)
        self._local.length += len(token_ids)
        self.candidate_mass = layout.chunk_mass / self.base.num_layers
        return self.base.logits(hidden[-1])

    @torch.no_grad()
    def look_inside(
        self, chunks: Sequence[int], token_ids: Sequence[int], masses: Tensor, *, prompt_len: int
    ) -> list[Tensor]:
        """How much the answer's tokens looked at each token of `chunks`: one float32 [chunk_len] each.

        Args:
            token_ids: the token fed at each step: the last local token, then the answer's tokens but the last.
            masses: not needed: a row's attention inside a chunk is its attention to it.
            prompt_len: not needed either.
        """
        first = self._local.length - len(token_ids)  # their own KV is computed again, over itself
        layout = DirectLayout(self.blocks, self._local, self.kernel, length=first, watched=tuple(chunks))
        self._run(list(token_ids), first, layout)
        return [layout.looked_at[index].cpu() for index in chunks]

    def look_for_question(self, chunks: Sequence[int]) -> list[Tensor]:
        """See `AnswerDecoder`: no question runs behind the chunks."""
        return []

    def _run(self, token_ids: list[int], first: int, layout: DirectLayout) -> Tensor:
        positions = self._start + first + torch.arange(len(token_ids))
        device = self.base.device
        return self.base.run(torch.tensor([token_ids], device=device), positions[None].to(device), layout)[0]


class Direct(OwnWay[DirectDecoder]):
    """Answers in direct mode."""

    in_front_of = "The positions of {} chunks side by side", "lower chunk_size or max_new_tokens"

    def decoder(self, blocks: Sequence[MemoryBlock], max_new_tokens: int) -> DirectDecoder:
        """See `OwnWay.decoder`."""
        start = self.num_in_front(1)
        return DirectDecoder(self.base, blocks, kernel=self.kernel, start=start, max_new_tokens=max_new_tokens)

    def num_in_front(self, num_chunks: int) -> int:
        """See `OwnWay.num_in_front`: those of one chunk, since all stand side by side."""
        return self.config.anchor + (self.config.chunk_size or 0) if num_chunks else 0


@dataclass(slots=True)
class DirectLayout:
    """The layout of local rows over all chunks and over the local context up to themselves.

    Attributes:
        local: KV of the local context; that of the rows is written behind the first `length` tokens.
        length: local tokens before the rows; None for all that `local` holds.
        watched: chunks whose tokens' attention is collected in `looked_at`.
        chunk_mass: float32 [num_chunks], what the last row paid to each chunk, summed over layers.
        looked_at: of each watched chunk, float32 [chunk_len], `gathered` by head and row, summed over layers too.
    """

    blocks: Sequence[MemoryBlock]
    local: LocalContext
    kernel: AttentionKernel
    length: int | None = None
    watched: tuple[int, ...] = ()
    chunk_mass: Tensor = field(init=False)
    looked_at: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = sum(block.num_chunks for block in self.blocks)
        self.chunk_mass = torch.zeros(count, device=self.local.keys.device)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        """Attention of the local rows in one layer; see `AttentionLayout`."""
        rows = query.shape[2]
        begin = self.local.length if self.length is None else self.length
        keys, values = self.local.keys[layer][None], self.local.values[layer][None]
        keys[:, :, begin : begin + rows] = key
        values[:, :, begin : begin + rows] = value
        stop = begin + rows
        output, lse = self.kernel(
            query, keys[:, :, :stop], values[:, :, :stop], scaling=scaling, query_start=begin, window=window
        )
        # Sums over parts, each weighted by e^(its lse - the largest), in float32.
        largest, total = lse, torch.ones_like(lse)
        summed = output.float()
        lses: list[Tensor] = []
        for part in self._parts(rows):
            # Each chunk is one of a batch; all see the same rows.
            asked = query.expand(part.num_chunks, -1, -1, -1)
            found, found_lse = part.attend(
                layer, asked, kernel=self.kernel, scaling=scaling, query_start=part.chunk_len + begin, window=window
            )
            lses.append(found_lse[:, :, -1])
            top = torch.maximum(largest, found_lse.amax(dim=0, keepdim=True))
            kept, weight = torch.exp(largest - top), torch.exp(found_lse - top)
            summed = summed * kept.unsqueeze(-1) + (found.float() * weight.unsqueeze(-1)).sum(dim=0, keepdim=True)
            total = total * kept + weight.sum(dim=0, keepdim=True)
            largest = top
        whole = largest + total.log()
        self.chunk_mass += torch.exp(torch.cat(lses) - whole[:, :, -1]).mean(dim=1)
        for index in self.watched:
            self._look(index, layer, query, whole, scaling)
        # [1, heads, rows, head_dim] -> [1, rows, heads, head_dim]
        return (summed / total.unsqueeze(-1)).to(query.dtype).transpose(1, 2)

    def _parts(self, rows: int) -> Iterator[MemoryBlock]:
        """Chunks of one length, no more at once than memory should bear."""
        size = max(1, MAX_PAIRS // rows)
        for block in self.blocks:
            for start in range(0, block.num_chunks, size):
                yield block.chunks(start, start + size)

    def _look(self, index: int, layer: int, query: Tensor, lse: Tensor, scaling: float) -> None:
        """Add what the rows looked at in chunk `index` in this layer."""
        at, block = index, self.blocks[0]
        for block in self.blocks:
            if at < block.num_chunks:
                break
            at -= block.num_chunks
        keys, values = block.chunks(at, at + 1).layer(layer, torch.float32)
        # [1, heads, rows, head_dim] -> [1, num_kv_heads, heads per KV head * rows, head_dim]
        asked = query.float().reshape(1, keys.shape[1], -1, query.shape[-1])
        scores = (asked @ keys.transpose(-1, -2)).view(*query.shape[:3], -1) * scaling
        seen = gathered(torch.exp(scores - lse.unsqueeze(-1)), values).sum(dim=(0, 1, 2))
        self.looked_at[index] = self.looked_at.get(index, torch.zeros_like(seen)) + seen
