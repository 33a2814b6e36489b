"""Parallel decoding: the state of one question over a memory, advanced by one sweep per token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from focusdoc.attention import AttentionKernel
from focusdoc.config import FocusConfig
from focusdoc.decoding.condense import DenseSweep
from focusdoc.decoding.looking import Looker, first_look, question_look
from focusdoc.decoding.state import (
    TAIL_STEP,
    ChunkGroup,
    LocalContext,
    QuestionRows,
    check_bytes,
    choose_active,
    narrowed_groups,
    narrowed_local,
)
from focusdoc.decoding.sweep import CandidateQueries, PassRows, Sweep
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.modeling.base import BaseModel, CandidateWeights

#: Rows of one sweep where `FocusConfig.chunk_batch` does not say: bounds the activations of the prompt phase.
MAX_ROWS = 8192


class ParallelDecoder:
    """Decodes one answer over the chunks of `blocks`.

    Call `start` once with the local context, then `step` with every chosen token; each returns the next token's
    logits. The local KV is kept, and only the newest local token sees candidates (`focusdoc.decoding.refreshed` has
    the paper's way).

    Args:
        weights: the candidate weights of every layer.
        blocks: the chunks' KV, at least one chunk.
        max_new_tokens: how many steps the local context keeps room for; the tails of the chunks grow as steps are
            made.
    """

    def __init__(
        self,
        base: BaseModel,
        weights: CandidateWeights,
        blocks: Sequence[MemoryBlock],
        *,
        kernel: AttentionKernel,
        config: FocusConfig,
        max_new_tokens: int,
    ) -> None:
        self.base = base
        self.weights = weights
        self._blocks = blocks
        self.kernel = kernel
        self._config = config
        self._max_new_tokens = max_new_tokens
        self.num_chunks = sum(block.num_chunks for block in blocks)
        self._shared = config.candidate_positions == "shared"
        self.groups: list[ChunkGroup] = []
        self.tail_len = 0
        self._local_ids: list[int] = []
        self._newest = -1
        self._stepped = False
        #: The chunk in each slot in front of the local context; fewer than all once some sit out.
        self.active = list(range(self.num_chunks))
        self._sitting_out: list[ChunkGroup] = []
        #: What the candidates of the first sweeps asked, for each sweep and layer.
        self._asked: list[list[CandidateQueries]] = []
        #: Attention mass that the newest local token paid to each chunk's candidate: float32 [num_chunks],
        #: mean over layers and heads.
        self.candidate_mass = torch.zeros(self.num_chunks)
        #: The question's rows that `look` was given.
        self._question: QuestionRows | None = None

    @torch.no_grad()
    def start(self, local_ids: Sequence[int], prompt_ids: Sequence[int]) -> Tensor:
        """Run the dynamic prompt behind all chunks and the local context beside it.

        Args:
            local_ids: the local context, with its BOS if the mode wants one.
            prompt_ids: the dynamic prompt, with its BOS likewise; its last token is the last local token.

        Returns:
            Float32 logits [vocab] of the first new token.
        """
        return self._advance(*self.open(local_ids, prompt_ids))

    def look(self, local_ids: Sequence[int], prompt_ids: Sequence[int], question: QuestionRows) -> None:
        """See `AnswerDecoder.look`; what a candidate is worth is told by the local context, so all of it runs."""
        self._question = question
        self.start(local_ids, prompt_ids)

    def open(self, local_ids: Sequence[int], prompt_ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """What `start` feeds: the tokens of every chunk before its candidate, and the local tokens."""
        self.groups = list(self._make_groups(len(prompt_ids)))
        self.local = LocalContext.empty(self.groups[0], self.num_chunks, len(local_ids) + self._max_new_tokens)
        self._local_ids = list(local_ids)
        self._newest = prompt_ids[-1]
        return list(prompt_ids[:-1]), self._local_ids

    @torch.no_grad()
    def step(self, token: int) -> Tensor:
        """Feed the chosen `token`; return the float32 logits [vocab] of the one after it."""
        return self._advance(*self.next(token))

    def next(self, token: int) -> tuple[list[int], list[int]]:
        """What `step` feeds, as `open` tells it."""
        if not self._stepped and self._config.active_chunks != "all":
            self._focus()
        self._stepped = True
        previous, self._newest = self._newest, token
        return [previous], [token]

    @torch.no_grad()
    def restart(self, local_ids: Sequence[int]) -> Tensor:
        """Put another local context behind the candidates that `start` made; call it before the first `step`.

        The chunks, their tails and the candidates stand as they are, and so does `candidate_mass`: only local rows run.

        Args:
            local_ids: ends with the token that the first local context ended with.

        Returns:
            Float32 logits [vocab] of the first new token.
        """
        before = self.local
        self.local = before.emptied(len(local_ids) + self._max_new_tokens)
        self._local_ids = list(local_ids)
        rows = self._rows([], [], self._local_ids)
        hidden = self._run(rows)
        self.local.length = len(local_ids)
        return self.base.logits(hidden[-1])

    @torch.no_grad()
    def look_inside(
        self, chunks: Sequence[int], token_ids: Sequence[int], masses: Tensor, *, prompt_len: int
    ) -> list[Tensor]:
        """How much the candidates of `chunks` looked at each token of their chunk: one float32 [chunk_len] each.

        Each is weighted by the attention its step's local token paid to it. For the first step what candidates asked
        is known; those of more steps are recomputed in one dense pass over these few chunks.
        """
        # A chunk that sat out has no tail beyond the prompt, and no candidate after the first.
        awake = [index for index in chunks if index in self.active] if len(token_ids) > 1 else []
        lookers = [Looker(index, self.single(index)) for index in chunks if index not in awake]
        weights = masses[0].tolist()
        looked = first_look(lookers, self._asked, prompt_len - 1) if lookers else []
        found = {looker.chunk: own * weights[looker.chunk] for looker, own in zip(lookers, looked, strict=True)}
        if awake:
            found |= zip(awake, self._looked_at(awake, token_ids, masses, prompt_len), strict=True)
        return [found[index] for index in chunks]

    @torch.no_grad()
    def look_for_question(self, chunks: Sequence[int]) -> list[Tensor]:
        """What the followed heads took from each token of `chunks`: float32 [heads, chunk_len] each; see `look`."""
        if self._question is None or not self._question.heads:
            return []
        return question_look([Looker(index, self.single(index)) for index in chunks], self._asked, self._question)

    def _looked_at(
        self, chunks: Sequence[int], token_ids: Sequence[int], masses: Tensor, prompt_len: int
    ) -> list[Tensor]:
        """`look_inside` for chunks that all took part in the same steps."""
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
        return [looked[0].cpu() for looked in layout.looked_at]

    def single(self, index: int) -> ChunkGroup:
        """Chunk `index` with its tail, as a group of its own (views, no copies)."""
        groups, slot = (self.groups, self.active.index(index)) if index in self.active else (self._sitting_out, index)
        group = next(group for group in groups if slot in range(group.span.start, group.span.stop))
        at = slice(slot - group.first, slot - group.first + 1)
        block = group.block.chunks(at.start, at.stop)
        return ChunkGroup(block, group.tail_keys[:, at], group.tail_values[:, at], slot)

    def _focus(self) -> None:
        """Let the chunks that the first token paid no attention to sit out from now on."""
        active = choose_active(self.candidate_mass.cpu(), self._config.active_chunks)
        if len(active) == self.num_chunks:
            return
        self._sitting_out, self.active = self.groups, active
        self.groups = list(narrowed_groups(self._sitting_out, active))
        self.local = narrowed_local(self.local, len(active))

    def _make_groups(self, prompt_len: int) -> Iterator[ChunkGroup]:
        """The blocks in pieces of at most `chunk_batch` chunks."""
        size = self._config.chunk_batch or max(1, MAX_ROWS // prompt_len)
        room = prompt_len + min(TAIL_STEP, self._max_new_tokens)
        first = 0
        for block in self._blocks:
            for start in range(0, block.num_chunks, size):
                stop = min(start + size, block.num_chunks)
                yield ChunkGroup.of(block, start, stop, first + start, room, self.base.dtype)
            first += block.num_chunks

    def _sweeps(self, rows_per_chunk: int) -> Iterator[list[ChunkGroup]]:
        """Consecutive groups packed into as few sweeps as the row limit allows."""
        limit = self._config.chunk_batch or max(1, MAX_ROWS // rows_per_chunk)
        packed: list[ChunkGroup] = []
        for group in self.groups:
            if packed and sum(member.num_chunks for member in packed) + group.num_chunks > limit:
                yield packed
                packed = []
            packed.append(group)
        yield packed

    def _advance(self, ordinary: list[int], local_ids: list[int]) -> Tensor:
        """Feed every chunk `ordinary` and the newest token as candidate, the local context `local_ids`."""
        *others, last = self.passes(ordinary, local_ids)
        for each in others:
            self._run(each)
        return self.settle(last, self._run(last), len(ordinary), len(local_ids))

    def passes(self, ordinary: list[int], local_ids: list[int]) -> list[PassRows]:
        """The passes that feed those tokens, to be run in this order; the last one holds the local rows."""
        self._widen_tails(self.tail_len + len(ordinary) + 1)
        *others, last = self._sweeps(len(ordinary) + 1)
        rows = [*(self._rows(groups, ordinary, []) for groups in others), self._rows(last, ordinary, local_ids)]
        if not self._stepped:
            for each in rows:
                each.layout.asked, each.layout.question = [], self._question
                self._asked.append(each.layout.asked)
        return rows

    def _widen_tails(self, needed: int) -> None:
        """Make room for `needed` tokens in the tails of all chunks.

        Raises:
            MemoryShortageError: there is not enough memory for the further answer.
        """
        narrow = [group for group in self.groups if group.room < needed]
        if not narrow:
            return
        more = max(needed - narrow[0].room, TAIL_STEP)
        check_bytes(self.base, sum(group.num_chunks for group in narrow), more)
        for group in narrow:
            group.widen(more)

    def settle(self, last: PassRows, hidden: Tensor, num_ordinary: int, num_local: int) -> Tensor:
        """After the passes: float32 logits [vocab] from the last one's leading rows, hidden [rows, hidden_size]."""
        self.tail_len += num_ordinary
        self.local.length += num_local
        mass = last.layout.candidate_mass / self.base.num_layers
        self.candidate_mass = mass.new_zeros(self.num_chunks)
        self.candidate_mass[self.active] = mass
        return self.base.logits(hidden[last.num_leading - 1])

    def _run(self, rows: PassRows) -> Tensor:
        """Final hidden states of all rows of a pass, [rows, hidden_size]."""
        return self.base.run(
            rows.token_ids[None].to(self.base.device),
            rows.positions[None].to(self.base.device),
            rows.layout,
            weights=self.weights,
            num_candidates=rows.num_candidates,
        )[0]

    def _rows(self, groups: Sequence[ChunkGroup], ordinary: list[int], local_ids: list[int]) -> PassRows:
        """The rows of one pass: `ordinary` and the candidate of every chunk of `groups`, and `local_ids`."""
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
        sweep = Sweep(
            groups=groups,
            tail_start=self.tail_len,
            num_ordinary=len(ordinary),
            local=self.local,
            num_local=len(local_ids),
            sees_from=self._sees_from(len(local_ids)),
            distances=distances,
            rotary=self.base.rotary,
            kernel=self.kernel,
        )
        return PassRows(torch.cat(tokens), torch.cat(positions), sweep, sweep.num_candidates)

    def _sees_from(self, num_local: int) -> int:
        """The first of `num_local` local rows that sees the candidates."""
        return max(0, num_local - 1)

    @property
    def local_start(self) -> int:
        """Position of the first local token, right behind the candidates."""
        return 1 if self._shared else self.num_chunks

    def candidate_positions(self, group: ChunkGroup) -> Tensor:
        """Positions of the group's candidates in front of the local context, int64 [num_chunks]."""
        places = torch.tensor(self.active[group.span])
        return torch.zeros_like(places) if self._shared else places


class RefreshedDecoder(ParallelDecoder):
    """`ParallelDecoder` as the paper's code has it."""

    def next(self, token: int) -> tuple[list[int], list[int]]:
        """See `ParallelDecoder.next`: the whole local context is fed again."""
        ordinary, newest = super().next(token)
        self._local_ids += newest
        self.local.length = 0
        return ordinary, self._local_ids

    def _sees_from(self, num_local: int) -> int:
        return 0
