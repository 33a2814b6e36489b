"""Several questions over the same chunks at once: their sweeps side by side in one.

The rows of all questions share every linear layer, and the stored keys of a chunk are read once for all of them, which
is what a step over a long memory costs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from focusdoc.attention import blend
from focusdoc.config import FocusConfig
from focusdoc.decoding.parallel import MAX_ROWS, ParallelDecoder, PassRows


def chunks_at_once(config: FocusConfig, prompt_lens: Sequence[int]) -> int:
    """The `chunk_batch` under which questions with prompts of these lengths cut the chunks into the same groups."""
    return config.chunk_batch or max(1, MAX_ROWS // sum(prompt_lens))


@torch.no_grad()
def start_together(
    decoders: Sequence[ParallelDecoder], questions: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> list[Tensor]:
    """`ParallelDecoder.start` of all `decoders`, fresh and over the same blocks; their float32 logits [vocab].

    Args:
        questions: the local context and the dynamic prompt of each.
    """
    return _advance(decoders, [decoder.open(*given) for decoder, given in zip(decoders, questions, strict=True)])


@torch.no_grad()
def step_together(decoders: Sequence[ParallelDecoder], tokens: Sequence[int]) -> list[Tensor]:
    """`ParallelDecoder.step` of all `decoders`, each with its token; their float32 logits [vocab]."""
    return _advance(decoders, [decoder.next(token) for decoder, token in zip(decoders, tokens, strict=True)])


def _advance(decoders: Sequence[ParallelDecoder], fed: Sequence[tuple[list[int], list[int]]]) -> list[Tensor]:
    passes = [decoder.passes(*tokens) for decoder, tokens in zip(decoders, fed, strict=True)]
    rounds = max(map(len, passes))
    hidden: dict[int, Tensor] = {}
    for number in range(rounds):
        # Aligned at the end: the last pass of each holds its local rows, which see what the others made.
        active = [index for index, own in enumerate(passes) if len(own) >= rounds - number]
        rows = [passes[index][number - rounds] for index in active]
        hidden |= zip(active, _run(decoders[0], rows), strict=True)
    return [
        decoder.settle(own[-1], hidden[index], len(ordinary), len(local_ids))
        for index, (decoder, own, (ordinary, local_ids)) in enumerate(zip(decoders, passes, fed, strict=True))
    ]


def _run(decoder: ParallelDecoder, passes: Sequence[PassRows]) -> list[Tensor]:
    """One pass for all; returns the final hidden states of each one's leading rows, [num_leading, hidden_size]."""

    def arrange(rows: Sequence[Tensor]) -> Tensor:
        leading = [row[: each.num_leading] for row, each in zip(rows, passes, strict=True)]
        candidates = [row[each.num_leading :] for row, each in zip(rows, passes, strict=True)]
        return torch.cat(leading + candidates)[None].to(decoder.base.device)

    layout = SideBySide(passes)
    hidden = decoder.base.run(
        arrange([each.token_ids for each in passes]),
        arrange([each.positions for each in passes]),
        layout,
        weights=decoder.weights,
        num_candidates=sum(each.num_candidates for each in passes),
    )
    return [hidden[0, leading] for leading, _ in layout.spans]


class SideBySide:
    """The layout of several sweeps in one; rows ``[leading rows, sweep by sweep | candidates, sweep by sweep]``."""

    def __init__(self, passes: Sequence[PassRows]) -> None:
        self._passes = passes
        self.spans: list[tuple[slice, slice]] = []
        lead, behind = 0, sum(each.num_leading for each in passes)
        for each in passes:
            leading, candidates = slice(lead, lead + each.num_leading), slice(behind, behind + each.num_candidates)
            self.spans.append((leading, candidates))
            lead, behind = leading.stop, candidates.stop

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        """Attention of every sweep in one layer; see `AttentionLayout`."""
        queries, keys, values = (
            # [1, heads, rows of all sweeps, head_dim] -> for each sweep [1, heads, its rows, head_dim]
            [torch.cat([states[:, :, span] for span in spans], dim=2) for spans in self.spans]
            for states in (query, key, value)
        )
        given = list(zip((each.layout for each in self._passes), queries, keys, values, strict=True))
        asked = [sweep.take_in(layer, *own) for sweep, *own in given]
        over = self._over_chunks(layer, asked, scaling, window)
        leading: list[Tensor] = []
        candidates: list[Tensor] = []
        for each, (sweep, q, k, v), rows, found in zip(self._passes, given, asked, over, strict=True):
            merged = [
                blend(*over_chunk, *sweep.over_tail(layer, group, queries, scaling, window))
                for group, queries, over_chunk in zip(sweep.groups, rows, found, strict=True)
            ]
            output = sweep.finish(layer, q, k, v, merged, scaling, window)
            leading.append(output[:, : each.num_leading])
            candidates.append(output[:, each.num_leading :])
        return torch.cat(leading + candidates, dim=1)

    def _over_chunks(
        self, layer: int, asked: Sequence[Sequence[Tensor]], scaling: float, window: int | None
    ) -> list[list[tuple[Tensor, Tensor]]]:
        """For each sweep and group, output and log-sum-exp over the chunks; one reading of a chunk serves all."""
        sweeps = [each.layout for each in self._passes]
        over: list[list[tuple[Tensor, Tensor]]] = [[] for _ in sweeps]
        alike = len({tuple(group.block.keys.data_ptr() for group in sweep.groups) for sweep in sweeps}) == 1
        if not alike or window is not None:  # a window counts from each question's own place
            for sweep, own, found in zip(sweeps, asked, over, strict=True):
                for group, rows in zip(sweep.groups, own, strict=True):
                    start = group.chunk_len + sweep.tail_start
                    found.append(
                        group.block.attend(
                            layer, rows, kernel=sweep.kernel, scaling=scaling, query_start=start, window=window
                        )
                    )
            return over
        for number, group in enumerate(sweeps[0].groups):
            together = torch.cat([own[number] for own in asked], dim=2)
            output, lse = group.block.attend(
                layer, together, kernel=sweeps[0].kernel, scaling=scaling, query_start=group.chunk_len
            )
            row = 0
            for own, found in zip(asked, over, strict=True):
                rows_of_one = slice(row, row := row + own[number].shape[2])
                found.append((output[:, :, rows_of_one], lse[:, :, rows_of_one]))
        return over
