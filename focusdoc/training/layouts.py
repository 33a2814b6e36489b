"""Attention layouts for training several prompts over the same chunks together: B prompts, padded to one length.

A pass of few rows costs almost as much as one of many, and attention is bound by the number of calls. So the rows of
all prompts go through every layer together, and each block of chunks is attended to once for all of them. Padding is at
the end of a prompt, where causal attention never sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from focusdoc.attention import AttentionKernel, attend_frozen, masked_attention, merge
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.modeling.rotary import Rotary, Rotations, rotate

_KeysValues = tuple[Tensor, Tensor]


@dataclass(slots=True)
class OrdinaryLayout:
    """The ordinary stream: rows ``[L prompt rows for each chunk of each prompt | M local rows of each prompt]``.

    Attributes:
        blocks: the chunks, k in total.
        num_prompts: B. prompt_len: L. local_len: M.
        tails: keys and values of the prompt rows, written by the pass; for each layer
            [B * k, num_kv_heads, L, head_dim].
        locals: keys and values of the local rows, for each layer [B, num_kv_heads, M, head_dim].
    """

    blocks: Sequence[MemoryBlock]
    num_prompts: int
    prompt_len: int
    local_len: int
    kernel: AttentionKernel
    tails: list[_KeysValues] = field(default_factory=list)
    locals: list[_KeysValues] = field(default_factory=list)

    @property
    def num_chunks(self) -> int:
        """k."""
        return sum(block.num_chunks for block in self.blocks)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        """Causal attention of prompt rows over their chunk, of local rows among themselves; see `AttentionLayout`."""
        num_tails = self.num_prompts * self.num_chunks
        rows = num_tails * self.prompt_len

        def split(states: Tensor) -> tuple[Tensor, Tensor]:
            # [1, heads, rows, head_dim] -> [B * k, heads, L, head_dim] and [B, heads, M, head_dim]
            prompt = torch.unflatten(states[0, :, :rows], 1, (num_tails, self.prompt_len))
            local = torch.unflatten(states[0, :, rows:], 1, (self.num_prompts, self.local_len))
            return prompt.transpose(0, 1), local.transpose(0, 1)

        (queries, local_queries), (keys, local_keys), (values, local_values) = split(query), split(key), split(value)
        over_chunk = self.over_chunks(layer, queries, [0] * self.num_prompts, scaling, window)
        over_tail = self.kernel(queries, keys, values, scaling=scaling, query_start=0, window=window)
        output, _ = merge(*over_chunk, *over_tail)
        local, _ = self.kernel(local_queries, local_keys, local_values, scaling=scaling, query_start=0, window=window)
        self.tails.append((keys, values))
        self.locals.append((local_keys, local_values))
        # [.., heads, tokens, head_dim] -> [1, rows, heads, head_dim]
        return torch.cat((output.transpose(1, 2).flatten(0, 1), local.transpose(1, 2).flatten(0, 1)))[None]

    def over_chunks(
        self, layer: int, query: Tensor, starts: Sequence[int], scaling: float, window: int | None
    ) -> tuple[Tensor, Tensor]:
        """Attention of rows behind chunks to the chunks' frozen keys, with gradient for the query.

        Args:
            query: [B * k, heads, rows, head_dim], ordered by prompt, then by chunk.
            starts: for each prompt, tokens between the chunk and the first row.

        Returns:
            Output [B * k, heads, rows, head_dim] and float32 lse [B * k, heads, rows].
        """
        attend = partial(attend_frozen, kernel=self.kernel, scaling=scaling, window=window)
        by_prompt = torch.unflatten(query, 0, (self.num_prompts, -1))
        outputs: list[Tensor] = []
        lses: list[Tensor] = []
        first = 0
        for block in self.blocks:
            keys, values = block.keys[layer], block.values[layer]
            queries = by_prompt[:, first : (first := first + block.num_chunks)]
            if window is None:  # every row sees the whole chunk, so one call serves all prompts
                # [B, chunks, heads, rows, head_dim] -> [chunks, heads, B * rows, head_dim]
                folded = queries.permute(1, 2, 0, 3, 4).flatten(2, 3)
                output, lse = attend(folded, keys, values, query_start=block.chunk_len)
                outputs.append(torch.unflatten(output, 2, (self.num_prompts, -1)).permute(2, 0, 1, 3, 4))
                lses.append(torch.unflatten(lse, 2, (self.num_prompts, -1)).permute(2, 0, 1, 3))
                continue
            results = [
                attend(rows, keys, values, query_start=block.chunk_len + start)
                for rows, start in zip(queries, starts, strict=True)
            ]
            outputs.append(torch.stack([output for output, _ in results]))
            lses.append(torch.stack([lse for _, lse in results]))
        return torch.cat(outputs, dim=1).flatten(0, 1), torch.cat(lses, dim=1).flatten(0, 1)


@dataclass(slots=True)
class TargetLayout:
    """The targets: rows ``[T local rows of each prompt | T candidates for each chunk of each prompt]``.

    Candidate t of a chunk attends to the chunk, to the ordinary tail before t and to itself; local row t attends to the
    candidates of step t, to the local context before the targets and to local rows 0 to t.

    Attributes:
        stream: the ordinary stream of the same prompts, after its pass.
        tail_starts, local_starts: for each prompt, tail tokens and local tokens before the first target.
        num_targets: T.
        distances: the rotation of each candidate's key to its local position, int64 [B * k * T].
    """

    stream: OrdinaryLayout
    tail_starts: Tensor
    local_starts: Tensor
    num_targets: int
    distances: Tensor
    rotary: Rotary
    _rotations: Rotations = field(init=False)
    _starts: list[int] = field(init=False)
    _masks: dict[int | None, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._rotations = self.rotary.rotations(self.distances)
        self._starts = self.tail_starts.tolist()  # once, since it synchronizes a GPU

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        """Attention of candidates and local rows, with gradient; see `AttentionLayout`."""
        rows = self.stream.num_prompts * self.num_targets

        def split(states: Tensor) -> tuple[Tensor, Tensor]:
            # [1, heads, rows, head_dim] -> [B, heads, T, head_dim] and [B * k, heads, T, head_dim]
            local = torch.unflatten(states[0, :, :rows], 1, (self.stream.num_prompts, self.num_targets))
            candidates = torch.unflatten(states[0, :, rows:], 1, (-1, self.num_targets))
            return local.transpose(0, 1), candidates.transpose(0, 1)

        rotated = rotate(key[0, :, rows:], self.rotary.of_layer(self._rotations, layer))
        (local_queries, queries), (local_keys, keys), (local_values, values) = split(query), split(key), split(value)
        # The candidates' keys and values as [B, heads, k, T, head_dim].
        by_prompt = (self.stream.num_prompts, -1)
        moved_keys = torch.unflatten(rotated, 1, (*by_prompt, self.num_targets)).transpose(0, 1)
        candidates = moved_keys, torch.unflatten(values, 0, by_prompt).transpose(1, 2)
        local = self._local(layer, local_queries, candidates, (local_keys, local_values), scaling, window)
        over_chunk = self.stream.over_chunks(layer, queries, self._starts, scaling, window)
        keys, values = _appended(self.stream.tails[layer], (keys, values))
        over_tail = masked_attention(queries, keys, values, self._visibility(window)[0], scaling=scaling)
        output, _ = merge(*over_chunk, *over_tail)
        # [.., heads, T, head_dim] -> [1, rows, heads, head_dim]
        return torch.cat((local.transpose(1, 2).flatten(0, 1), output.transpose(1, 2).flatten(0, 1)))[None]

    def _visibility(self, window: int | None) -> tuple[Tensor, Tensor]:
        """The attention masks, shared by all layers with the same sliding window.

        For candidates bool [B * k, T, L + T]: the tail before each, and itself. For local rows bool [B, T, M + T]: the
        local context, and the rows up to each.
        """
        if window in self._masks:
            return self._masks[window]
        steps = torch.arange(self.num_targets, device=self.local_starts.device)
        tail = _before(self.tail_starts, self.num_targets, self.stream.prompt_len, window)
        own = torch.eye(self.num_targets, dtype=torch.bool, device=tail.device).expand(len(tail), -1, -1)
        of_candidates = torch.cat((tail, own), dim=2).repeat_interleave(self.stream.num_chunks, dim=0)
        before = _before(self.local_starts, 1, self.stream.local_len, None).expand(-1, self.num_targets, -1)
        among = (steps[None, :] <= steps[:, None]).expand(len(before), -1, -1)
        of_rows = torch.cat((before, among), dim=2)
        if window is not None:
            rows = self.local_starts[:, None] + steps
            ordinary = torch.arange(self.stream.local_len, device=before.device).expand(len(before), -1)
            positions = torch.cat((ordinary, rows), dim=1)
            of_rows &= positions[:, None, :] > rows[:, :, None] - window
        self._masks[window] = of_candidates, of_rows
        return of_candidates, of_rows

    def _local(
        self, layer: int, query: Tensor, candidates: _KeysValues, own: _KeysValues, scaling: float, window: int | None
    ) -> Tensor:
        """Local rows over the candidates of their step, which no window masks, the local context and each other."""
        keys, values = (states.float() for states in _appended(self.stream.locals[layer], own))
        # [B, heads, T, head_dim] -> [B, num_kv_heads, heads per KV head, T, head_dim]
        grouped = torch.unflatten(query.float(), 1, (keys.shape[1], -1)) * scaling
        to_candidates = torch.einsum("bghtd,bgktd->bghtk", grouped, candidates[0].float())
        to_local = torch.einsum("bghtd,bgld->bghtl", grouped, keys)
        mask = self._visibility(window)[1]
        scores = torch.cat((to_candidates, to_local.masked_fill(~mask[:, None, None], -torch.inf)), dim=-1)
        weights = scores.softmax(dim=-1)
        num_chunks = to_candidates.shape[-1]
        output = torch.einsum("bghtk,bgktd->bghtd", weights[..., :num_chunks], candidates[1].float())
        output = output + torch.einsum("bghtl,bgld->bghtd", weights[..., num_chunks:], values)
        return output.flatten(1, 2).to(query.dtype)


def _appended(before: _KeysValues, more: _KeysValues) -> _KeysValues:
    """Keys and values [.., tokens, head_dim] with those of more tokens behind them."""
    return torch.cat((before[0], more[0]), dim=2), torch.cat((before[1], more[1]), dim=2)


def _before(starts: Tensor, num_rows: int, length: int, window: int | None) -> Tensor:
    """Bool [B, num_rows, length]: row t of a prompt sees the positions before ``start + t``, within the window."""
    rows = starts[:, None, None] + torch.arange(num_rows, device=starts.device)[None, :, None]
    positions = torch.arange(length, device=starts.device)
    mask = positions < rows
    return mask if window is None else mask & (rows - positions < window)
