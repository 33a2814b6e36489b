"""Concurrent questions over the same chunks: one pass for all of them.

They share every linear layer, and each chunk's stored keys and values are read once for all: memory traffic dominates a
step over a long document.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from focusdoc.attention import blend
from focusdoc.decoding.sweep import MAX_ROWS, Sweep
from focusdoc.modeling.base import BaseModel, CandidateWeights

#: How long a pass waits for the other questions of the previous pass, as a share of that pass's time.
_PATIENCE = 0.1


class SideBySide:
    """The layout of several sweeps in one pass: ``[leading rows, sweep by sweep | candidates, sweep by sweep]``."""

    def __init__(self, sweeps: Sequence[Sweep]) -> None:
        self._sweeps = sweeps
        #: For each sweep, its leading rows and its candidate rows.
        self.spans: list[tuple[slice, slice]] = []
        row, candidate = 0, sum(sweep.num_leading for sweep in sweeps)
        for sweep in sweeps:
            leading = slice(row, row := row + sweep.num_leading)
            self.spans.append((leading, slice(candidate, candidate := candidate + sweep.num_candidates)))

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        """Attention of every sweep in one layer; see `AttentionLayout`."""
        queries, keys, values = (
            # [1, heads, rows of all sweeps, head_dim] -> for each sweep [1, heads, its rows, head_dim]
            [torch.cat([states[:, :, span] for span in spans], dim=2) for spans in self.spans]
            for states in (query, key, value)
        )
        inputs = list(zip(self._sweeps, queries, keys, values, strict=True))
        by_group = [sweep.store_kv(layer, *own) for sweep, *own in inputs]
        over = self._attend_chunks(layer, by_group, scaling, window)
        leading: list[Tensor] = []
        candidates: list[Tensor] = []
        for (sweep, q, k, v), rows, found in zip(inputs, by_group, over, strict=True):
            merged = [
                blend(*over_chunk, *sweep.attend_tail(layer, group, newest, scaling, window))
                for group, newest, over_chunk in zip(sweep.groups, rows, found, strict=True)
            ]
            output = sweep.finish(layer, q, k, v, merged, scaling, window)
            leading.append(output[:, : sweep.num_leading])
            candidates.append(output[:, sweep.num_leading :])
        return torch.cat(leading + candidates, dim=1)

    def _attend_chunks(
        self, layer: int, queries: Sequence[Sequence[Tensor]], scaling: float, window: int | None
    ) -> list[list[tuple[Tensor, Tensor]]]:
        """For each sweep and group, output and log-sum-exp over the chunks; each chunk is read once for all sweeps."""
        sweeps = self._sweeps
        over: list[list[tuple[Tensor, Tensor]]] = [[] for _ in sweeps]
        same_chunks = len({tuple(group.block.keys.data_ptr() for group in sweep.groups) for sweep in sweeps}) == 1
        if same_chunks and window is None:  # with a window, each question's positions matter
            for group, *of_sweeps in zip(sweeps[0].groups, *queries, strict=True):
                sizes = [rows.shape[2] for rows in of_sweeps]
                together = torch.cat(of_sweeps, dim=2)
                output, lse = group.block.attend(
                    layer, together, kernel=sweeps[0].kernel, scaling=scaling, query_start=group.chunk_len
                )
                parts = zip(output.split(sizes, dim=2), lse.split(sizes, dim=2), strict=True)
                for found, part in zip(over, parts, strict=True):
                    found.append(part)
            return over
        for sweep, own, found in zip(sweeps, queries, over, strict=True):
            for group, rows in zip(sweep.groups, own, strict=True):
                start = group.chunk_len + sweep.tail_start
                found.append(
                    group.block.attend(
                        layer, rows, kernel=sweep.kernel, scaling=scaling, query_start=start, window=window
                    )
                )
        return over


def run_alone(base: BaseModel, weights: CandidateWeights, sweep: Sweep) -> Tensor:
    """One pass of one question; returns the final hidden states of its rows, [rows, hidden_size]."""
    token_ids, positions = (rows[None].to(base.device) for rows in (sweep.token_ids, sweep.positions))
    return base.run(token_ids, positions, sweep, weights=weights, num_candidates=sweep.num_candidates)[0]


def run_together(base: BaseModel, weights: CandidateWeights, questions: Sequence[Sequence[Sweep]]) -> list[Tensor]:
    """The passes of several questions, given in order for each, one pass for all of them at a time.

    Returns:
        For each question, the final hidden states of its last pass, whose leading rows come first: [rows, hidden_size].
    """
    rounds = max(map(len, questions))
    hidden: dict[int, Tensor] = {}
    for number in range(rounds):
        # Align the last passes: they have the local rows, which attend to the candidates of the passes before.
        active = [index for index, own in enumerate(questions) if len(own) >= rounds - number]
        sweeps = [questions[index][number - rounds] for index in active]
        hidden |= zip(active, _run_round(base, weights, sweeps), strict=True)
    return [hidden[index] for index in range(len(questions))]


def _run_round(base: BaseModel, weights: CandidateWeights, sweeps: Sequence[Sweep]) -> list[Tensor]:
    if len(sweeps) == 1:
        return [run_alone(base, weights, sweeps[0])]

    def arrange(rows: Sequence[Tensor]) -> Tensor:
        leading = [row[: sweep.num_leading] for row, sweep in zip(rows, sweeps, strict=True)]
        candidates = [row[sweep.num_leading :] for row, sweep in zip(rows, sweeps, strict=True)]
        return torch.cat(leading + candidates)[None].to(base.device)

    layout = SideBySide(sweeps)
    token_ids, positions = (
        arrange([sweep.token_ids for sweep in sweeps]),
        arrange([sweep.positions for sweep in sweeps]),
    )
    num_candidates = sum(sweep.num_candidates for sweep in sweeps)
    hidden = base.run(token_ids, positions, layout, weights=weights, num_candidates=num_candidates)
    return [hidden[0, leading] for leading, _ in layout.spans]


@dataclass(slots=True, eq=False)
class _Turn:
    """The passes of a question's next step, and their result."""

    passes: Sequence[Sweep]
    #: A running pass includes it.
    taken: bool = False
    #: Its question has ended.
    withdrawn: bool = False
    hidden: Tensor | None = None

    @property
    def rows(self) -> int:
        return max(len(sweep.token_ids) for sweep in self.passes)


#: The chunks of a pass: addresses of their keys.
_Chunks = tuple[int, ...]


@dataclass(slots=True)
class Together:
    """Batches the steps of concurrent questions; thread-safe.

    One thread runs the passes of all questions that wait for the same chunks, and the others wait for it. So questions
    join and leave between steps, and a lone question does not wait. If a pass fails (out of memory, Ctrl-C), only the
    question whose thread ran it fails; the others retry without it.
    """

    _changed: threading.Condition = field(default_factory=threading.Condition)
    _waiting: dict[_Chunks, list[_Turn]] = field(default_factory=dict)
    #: The chunks over which a pass is running.
    _running: set[_Chunks] = field(default_factory=set)
    #: For chunks whose last pass was shared: the number of its questions, and its seconds.
    _last: dict[_Chunks, tuple[int, float]] = field(default_factory=dict)

    def run(self, base: BaseModel, weights: CandidateWeights, passes: Sequence[Sweep]) -> Tensor:
        """The final hidden states of the last of `passes`, leading rows first: [rows, hidden_size].

        All questions have the same `weights`.
        """
        turn = _Turn(passes)
        chunks = tuple(group.block.keys.data_ptr() for sweep in passes for group in sweep.groups)
        with self._changed:
            self._waiting.setdefault(chunks, []).append(turn)
            self._changed.notify_all()
            leads = False
            try:
                self._changed.wait_for(lambda: turn.hidden is not None or not (turn.taken or chunks in self._running))
                if leads := turn.hidden is None:
                    self._running.add(chunks)
                    turns = self._take(turn, chunks)
            except BaseException:  # Ctrl-C while it waits
                self._withdraw(turn, chunks, leads=leads)
                raise
        if turn.hidden is None:
            self._lead(base, weights, turns, chunks)
        assert turn.hidden is not None
        return turn.hidden

    def _withdraw(self, turn: _Turn, chunks: _Chunks, *, leads: bool) -> None:
        """Remove a turn whose question has ended, so that no other waits for it."""
        turn.withdrawn = True
        waiting = self._waiting.get(chunks, [])
        if turn in waiting:
            waiting.remove(turn)
        if chunks in self._waiting and not waiting:
            del self._waiting[chunks]
        if leads:
            self._running.discard(chunks)
        self._changed.notify_all()

    def _take(self, own: _Turn, chunks: _Chunks) -> list[_Turn]:
        """The turns of the next pass, `own` first, up to `MAX_ROWS`; waits briefly for those of the last pass."""
        expected, seconds = self._last.get(chunks, (1, 0.0))
        waiting = self._waiting[chunks]
        self._changed.wait_for(lambda: len(waiting) >= expected, timeout=_PATIENCE * seconds)
        taken, rows = [own], own.rows
        for turn in waiting:
            if turn is not own and rows + turn.rows <= MAX_ROWS:
                taken.append(turn)
                rows += turn.rows
        for turn in taken:
            turn.taken = True
            waiting.remove(turn)
        if not waiting:
            del self._waiting[chunks]
        return taken

    def _lead(self, base: BaseModel, weights: CandidateWeights, turns: list[_Turn], chunks: _Chunks) -> None:
        """Run one pass for all `turns`."""
        begun = time.perf_counter()
        try:
            found = run_together(base, weights, [turn.passes for turn in turns])
            for turn, hidden in zip(turns, found, strict=True):
                turn.hidden = hidden
        except BaseException:
            with self._changed:
                for turn in turns[1:]:
                    if turn.withdrawn:
                        continue
                    turn.taken = False
                    for sweep in turn.passes:
                        sweep.restart()
                    self._waiting.setdefault(chunks, []).append(turn)
            raise
        finally:
            with self._changed:
                self._running.discard(chunks)
                self._last.pop(chunks, None)
                if len(turns) > 1:
                    self._last[chunks] = len(turns), time.perf_counter() - begun
                self._changed.notify_all()
