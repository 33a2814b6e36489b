"""Parallel decoding: the state of one question over a memory, advanced by one sweep per token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field

import torch
from torch import Tensor

from focusdoc.attention import AttentionKernel
from focusdoc.config import FocusConfig
from focusdoc.decoding.condense import DenseSweep
from focusdoc.decoding.looking import candidate_scores, question_scores
from focusdoc.decoding.state import (
    TAIL_STEP,
    ChunkGroup,
    LocalContext,
    QuestionRows,
    check_free_memory,
    choose_active,
    select_groups,
    shrink_local,
)
from focusdoc.decoding.sweep import MAX_ROWS, CandidateQueries, Sweep
from focusdoc.decoding.together import Together, run_alone
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.modeling.base import BaseModel, CandidateWeights
from focusdoc.modeling.finding_weights import FindingWeights


@dataclass(eq=False)
class ParallelDecoder:
    """Decodes one answer over the chunks of `blocks`.

    Call `start` once with the local context, then `step` with every chosen token; each returns the next token's logits.
    The local KV is cached, and only the newest local token sees candidates (`RefreshedDecoder` follows the paper).

    Attributes:
        weights: the candidate weights of every layer.
        blocks: the chunks' KV, at least one chunk.
        max_new_tokens: steps that the local KV is allocated for; the tails of the chunks grow step by step.
        together: batches its passes with those of concurrent questions that have the same.
        finding: if `weights` were trained to find passages, what reads their candidates.
    """

    #: Whether all local rows see the candidates, not only the newest.
    refreshes = False

    base: BaseModel
    weights: CandidateWeights
    blocks: Sequence[MemoryBlock]
    _: KW_ONLY
    kernel: AttentionKernel
    config: FocusConfig
    max_new_tokens: int
    together: Together = field(default_factory=Together)
    finding: FindingWeights | None = None

    def __post_init__(self) -> None:
        self.num_chunks = sum(block.num_chunks for block in self.blocks)
        self._shared = self.config.candidate_positions == "shared"
        self.groups: list[ChunkGroup] = []
        self.tail_len = 0
        self._local_ids: list[int] = []
        self._newest = -1
        self._stepped = False
        #: The chunk in each candidate slot of the local context; not all once some are inactive.
        self.active = list(range(self.num_chunks))
        self._inactive_groups: list[ChunkGroup] = []
        #: The queries of the first step's candidates, per sweep and layer.
        self._candidate_queries: list[list[CandidateQueries]] = []
        self.candidate_mass = torch.zeros(self.num_chunks)
        #: See `AnswerDecoder.relevance`.
        self.relevance: Tensor | None = None
        #: The question's rows, set by `look`.
        self._question: QuestionRows | None = None

    @torch.no_grad()
    def start(self, local_ids: Sequence[int], prompt_ids: Sequence[int]) -> Tensor:
        """See `AnswerDecoder.start`; the dynamic prompt runs behind all chunks and the local context beside it."""
        return self._advance(*self.prepare_start(local_ids, prompt_ids))

    def look(self, local_ids: Sequence[int], prompt_ids: Sequence[int], question: QuestionRows) -> None:
        """See `AnswerDecoder.look`; the local context runs too, since its attention weights the candidates."""
        self._question = question
        self.start(local_ids, prompt_ids)
        if self.finding is not None:
            values = self.local.values[:, :, : self.num_chunks].float()
            self.relevance = torch.einsum("lgkd,lgd->k", values, self.finding.relevance.to(values.device)).cpu()

    def prepare_start(self, local_ids: Sequence[int], prompt_ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """The tokens that `start` feeds: to every chunk before its candidate, and to the local context."""
        self.groups = list(self._make_groups(len(prompt_ids)))
        self.local = LocalContext.empty(self.base, self.num_chunks, len(local_ids) + self.max_new_tokens)
        self._local_ids = list(local_ids)
        self._newest = prompt_ids[-1]
        return list(prompt_ids[:-1]), self._local_ids

    @torch.no_grad()
    def step(self, token: int) -> Tensor:
        """See `StepDecoder.step`."""
        return self._advance(*self.prepare_step(token))

    def prepare_step(self, token: int) -> tuple[list[int], list[int]]:
        """The tokens that `step` feeds; see `prepare_start`."""
        if not self._stepped and self.config.active_chunks != "all":
            self.keep_active(choose_active(self.candidate_mass.cpu(), self.config.active_chunks))
        self._stepped = True
        previous, self._newest = self._newest, token
        return [previous], [token]

    @torch.no_grad()
    def restart(self, local_ids: Sequence[int]) -> Tensor:
        """See `AnswerDecoder.restart`; between `start` and the first `step`.

        Chunks, tails, candidates and `candidate_mass` stay the same; only local rows run.
        """
        before, count = self.local, self.local.num_candidates
        self.local = LocalContext.empty(self.base, count, len(local_ids) + self.max_new_tokens)
        self.local.keys[:, :, :count] = before.keys[:, :, :count]
        self.local.values[:, :, :count] = before.values[:, :, :count]
        self._local_ids = list(local_ids)
        hidden = run_alone(self.base, self.weights, self._rows([], [], self._local_ids))
        self.local.length = len(local_ids)
        return self.base.logits(hidden[-1])

    @torch.no_grad()
    def answer_token_scores(
        self, chunks: Sequence[int], token_ids: Sequence[int], masses: Tensor, *, prompt_len: int
    ) -> list[Tensor]:
        """See `AnswerDecoder.answer_token_scores`.

        Each step's candidate is weighted by the attention that the step's local token paid to it. The queries of the
        first step were recorded; those of later steps are recomputed in one dense pass over these chunks.
        """
        # An inactive chunk has no tail after the prompt, and no candidate after the first.
        active = [index for index in chunks if index in self.active] if len(token_ids) > 1 else []
        others = {index: self.single(index) for index in chunks if index not in active}
        weights = masses[0].tolist()
        heads = None if self.finding is None else self.finding.heads.to(self.base.device)
        scores = candidate_scores(others, self._candidate_queries, prompt_len - 1, heads)
        found = {chunk: own * weights[chunk] for chunk, own in scores.items()}
        if active:
            found |= zip(active, self._dense_token_scores(active, token_ids, masses, prompt_len), strict=True)
        return [found[index] for index in chunks]

    @torch.no_grad()
    def question_token_scores(self, chunks: Sequence[int]) -> list[Tensor]:
        """See `AnswerDecoder.question_token_scores`."""
        if self._question is None or not self._question.heads:
            return []
        groups = {index: self.single(index) for index in chunks}
        scores = question_scores(groups, self._candidate_queries, self._question)
        return [scores[index] for index in chunks]

    def _dense_token_scores(
        self, chunks: Sequence[int], token_ids: Sequence[int], masses: Tensor, prompt_len: int
    ) -> list[Tensor]:
        """`answer_token_scores` for chunks that were active in all steps."""
        device, num_steps = self.base.device, len(token_ids)
        groups = [self.single(index) for index in chunks]
        layout = DenseSweep(
            groups=groups,
            num_targets=num_steps,
            tail_start=prompt_len - 1,
            rotary=self.base.rotary,
            kernel=self.kernel,
            token_weights=[masses[:, index].to(device)[None] for index in chunks],
        )
        places = [group.chunk_len + prompt_len - 1 + torch.arange(num_steps) for group in groups]
        rows = len(chunks) * num_steps
        self.base.run(
            torch.tensor(token_ids).repeat(len(chunks))[None].to(device),
            torch.cat(places)[None].to(device),
            layout,
            weights=self.weights,
            num_candidates=rows,
        )
        return [scores[0].cpu() for scores in layout.token_scores]

    def single(self, index: int) -> ChunkGroup:
        """Chunk `index` with its tail, as a group of its own (views)."""
        active = index in self.active
        groups, slot = (self.groups, self.active.index(index)) if active else (self._inactive_groups, index)
        group = next(group for group in groups if slot in range(group.span.start, group.span.stop))
        at = slice(slot - group.first, slot - group.first + 1)
        block = group.block.chunks(at.start, at.stop)
        return ChunkGroup(block, group.tail_keys[:, at], group.tail_values[:, at], slot)

    def keep_active(self, active: list[int]) -> None:
        """Deactivate all chunks but `active`, those that the first token paid attention to."""
        if len(active) == self.num_chunks:
            return
        self._inactive_groups, self.active = self.groups, active
        self.groups = list(select_groups(self._inactive_groups, active))
        self.local = shrink_local(self.local, len(active))

    def _make_groups(self, prompt_len: int) -> Iterator[ChunkGroup]:
        """The blocks in groups of at most `chunk_batch` chunks."""
        size = self.config.chunk_batch or max(1, MAX_ROWS // prompt_len)
        room = prompt_len + min(TAIL_STEP, self.max_new_tokens)
        first = 0
        for block in self.blocks:
            for start in range(0, block.num_chunks, size):
                stop = min(start + size, block.num_chunks)
                yield ChunkGroup.of(block, start, stop, first + start, room, self.base.dtype)
            first += block.num_chunks

    def _sweeps(self, rows_per_chunk: int) -> Iterator[list[ChunkGroup]]:
        """Consecutive groups, packed into as few sweeps as the row limit allows."""
        limit = self.config.chunk_batch or max(1, MAX_ROWS // rows_per_chunk)
        packed: list[ChunkGroup] = []
        for group in self.groups:
            if packed and sum(member.num_chunks for member in packed) + group.num_chunks > limit:
                yield packed
                packed = []
            packed.append(group)
        yield packed

    def _advance(self, ordinary: list[int], local_ids: list[int]) -> Tensor:
        """Feed `ordinary` and the newest token, as candidate, to every chunk, and `local_ids` to the local context."""
        passes = self.passes(ordinary, local_ids)
        hidden = self.together.run(self.base, self.weights, passes)
        return self.finish_passes(passes[-1], hidden, len(ordinary), len(local_ids))

    def passes(self, ordinary: list[int], local_ids: list[int]) -> list[Sweep]:
        """The passes that feed these tokens, in order; the last one has the local rows."""
        self._grow_tails(self.tail_len + len(ordinary) + 1)
        *others, last = self._sweeps(len(ordinary) + 1)
        sweeps = [*(self._rows(groups, ordinary, []) for groups in others), self._rows(last, ordinary, local_ids)]
        if not self._stepped:
            for sweep in sweeps:
                sweep.recorded, sweep.question = [], self._question
                self._candidate_queries.append(sweep.recorded)
        return sweeps

    def _grow_tails(self, needed: int) -> None:
        """Grow the tails of all chunks to `needed` tokens.

        Raises:
            MemoryShortageError: there is not enough memory to continue the answer.
        """
        full = [group for group in self.groups if group.room < needed]
        if not full:
            return
        extra = max(needed - full[0].room, TAIL_STEP)
        check_free_memory(self.base, sum(group.num_chunks for group in full), extra)
        for group in full:
            group.grow(extra)

    def finish_passes(self, last: Sweep, hidden: Tensor, num_ordinary: int, num_local: int) -> Tensor:
        """Finish a step: float32 logits [vocab] from the last pass's leading rows, hidden [rows, hidden_size]."""
        self.tail_len += num_ordinary
        self.local.length += num_local
        mass = last.candidate_mass / self.base.num_layers
        self.candidate_mass = mass.new_zeros(self.num_chunks)
        self.candidate_mass[self.active] = mass
        return self.base.logits(hidden[last.num_leading - 1])

    def _rows(self, groups: Sequence[ChunkGroup], ordinary: list[int], local_ids: list[int]) -> Sweep:
        """The rows of one pass: `ordinary` and a candidate for every chunk of `groups`, and `local_ids`."""
        device = self.base.device
        tokens: list[Tensor] = []
        positions: list[Tensor] = []
        distances: list[Tensor] = []
        fed = torch.tensor(ordinary, dtype=torch.long)
        behind = torch.arange(self.tail_len, self.tail_len + len(ordinary))
        for group in groups:
            tokens.append(fed.repeat(group.num_chunks))
            positions.append((behind + group.chunk_len).repeat(group.num_chunks))
        tokens.append(torch.tensor(local_ids, dtype=torch.long))
        positions.append(self.local_start + self.local.length + torch.arange(len(local_ids)))
        for group in groups:
            tokens.append(torch.full((group.num_chunks,), self._newest))
            place = group.chunk_len + self.tail_len + len(ordinary)
            positions.append(torch.full((group.num_chunks,), place))
            distances.append((self.candidate_positions(group) - place).to(device))
        return Sweep(
            token_ids=torch.cat(tokens),
            positions=torch.cat(positions),
            groups=groups,
            tail_start=self.tail_len,
            num_ordinary=len(ordinary),
            local=self.local,
            num_local=len(local_ids),
            sees_from=0 if self.refreshes else max(0, len(local_ids) - 1),
            distances=distances,
            rotary=self.base.rotary,
            kernel=self.kernel,
        )

    @property
    def local_start(self) -> int:
        """Position of the first local token, after the candidates."""
        return 1 if self._shared else self.num_chunks

    def candidate_positions(self, group: ChunkGroup) -> Tensor:
        """Positions of the group's candidates before the local context, int64 [num_chunks]."""
        places = torch.tensor(self.active[group.span])
        return torch.zeros_like(places) if self._shared else places


class RefreshedDecoder(ParallelDecoder):
    """`ParallelDecoder` as in the paper's code: every step re-encodes the local context with the candidates."""

    refreshes = True

    def prepare_step(self, token: int) -> tuple[list[int], list[int]]:
        """See `ParallelDecoder.prepare_step`; the whole local context is fed again."""
        ordinary, newest = super().prepare_step(token)
        self._local_ids += newest
        self.local.length = 0
        return ordinary, self._local_ids
