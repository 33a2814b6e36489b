"""Answering over chunks kept by holders: the head's side of the decoders, and the ways of answering with them."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from focusdoc.cluster.head import Call, Cluster
from focusdoc.cluster.holder import Asked, CandidateStep
from focusdoc.cluster.reading import RemoteBlock
from focusdoc.config import FocusConfig
from focusdoc.decoding.answer import Answer, TextPiece
from focusdoc.decoding.answering import OwnWay, Way
from focusdoc.decoding.candidates import Candidates, Refreshed
from focusdoc.decoding.look import Look, LookDecoder
from focusdoc.decoding.parallel import ParallelDecoder, RefreshedDecoder
from focusdoc.decoding.prompt import Request
from focusdoc.decoding.state import LocalContext, QuestionRows, shrink_local
from focusdoc.decoding.together import run_alone
from focusdoc.memory.chunk_memory import MemoryBlock


def shares_of(cluster: Cluster, blocks: Sequence[MemoryBlock]) -> dict[int, tuple[list[str], list[int]]]:
    """For each holder of some of `blocks`: the keys of its parts, and the indices of their chunks among all chunks."""
    found: dict[int, tuple[list[str], list[int]]] = {}
    first = 0
    for block in blocks:
        assert isinstance(block, RemoteBlock)  # the engine checks the makers of memories
        parts, places = found.setdefault(cluster.holder_of(block.part), ([], []))
        if block.part not in parts:
            parts.append(block.part)
        places += range(first, first + block.num_chunks)
        first += block.num_chunks
    return found


class SpreadDecoder(ParallelDecoder):
    """A `ParallelDecoder` whose chunks are kept by holders; a step takes one round trip to each."""

    def __init__(self, *args: Any, cluster: Cluster, together: object = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cluster = cluster
        self._places = {index: places for index, (_, places) in shares_of(cluster, self.blocks).items()}
        self._asked: dict[int, Asked] = {}
        #: The steps of each holder so far, to replay on a replacement.
        self._steps: dict[int, list[CandidateStep]] = {index: [] for index in self._places}
        #: Whether the active chunks have changed since the last step.
        self._changed = False

    def prepare_start(self, local_ids: Sequence[int], prompt_ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """See `ParallelDecoder.prepare_start`."""
        self.local = LocalContext.empty(self.base, self.num_chunks, len(local_ids) + self.max_new_tokens)
        self._local_ids, self._newest = list(local_ids), prompt_ids[-1]
        key = self._cluster.name("question")
        for index, (parts, places) in shares_of(self._cluster, self.blocks).items():
            self._asked[index] = Asked(
                key,
                tuple(parts),
                tuple(places),
                self.config,
                tuple(prompt_ids),
                self.max_new_tokens,
                self._question,
                finds=self.finding is not None,
            )
        weakref.finalize(self, self._cluster.close_question, key, list(self._asked)).atexit = False
        return list(prompt_ids[:-1]), self._local_ids

    def keep_active(self, active: list[int]) -> None:
        """See `ParallelDecoder.keep_active`."""
        if len(active) < self.num_chunks:
            self.active, self._changed = active, True
            self.local = shrink_local(self.local, len(active))

    def _advance(self, ordinary: list[int], local_ids: list[int]) -> Tensor:
        slot_of = {chunk: slot for slot, chunk in enumerate(self.active)}
        slots = {
            index: [slot_of[place] for place in places if place in slot_of] for index, places in self._places.items()
        }
        calls: dict[int, Call] = {}
        for index in (index for index, own in slots.items() if own):
            own = tuple(number for number, place in enumerate(self._places[index]) if place in slot_of)
            step = CandidateStep(tuple(ordinary), self._newest, own if self._changed else None)
            calls[index] = "condense", (self._asked[index], len(self._steps[index]), [step])
            self._steps[index].append(step)
        self._changed = False
        for index, (keys, values) in self._cluster.call(calls, self._rebuilt).items():
            at = torch.tensor(slots[index], device=self.base.device)
            self.local.keys.index_copy_(2, at, keys.to(self.base.device))
            self.local.values.index_copy_(2, at, values.to(self.base.device))
        rows = self._rows([], [], local_ids)
        return self.finish_passes(rows, run_alone(self.base, self.weights, rows), len(ordinary), len(local_ids))

    def answer_token_scores(
        self, chunks: Sequence[int], token_ids: Sequence[int], masses: Tensor, *, prompt_len: int
    ) -> list[Tensor]:
        """See `ParallelDecoder.answer_token_scores`."""

        def call(index: int, own: list[int]) -> Call:
            places = self._places[index]
            # Without an active chunk, a holder has run no step after the first.
            ids = list(token_ids) if set(places) & set(self.active) else list(token_ids[:1])
            return "answer_token_scores", (self._asked[index].key, own, ids, masses[:, places].cpu(), prompt_len)

        return self._scores(chunks, call)

    def question_token_scores(self, chunks: Sequence[int]) -> list[Tensor]:
        """See `AnswerDecoder.question_token_scores`."""
        if self._question is None or not self._question.heads:
            return []
        return self._scores(chunks, lambda index, own: ("question_token_scores", (self._asked[index].key, own)))

    def _scores(self, chunks: Sequence[int], call: Callable[[int, list[int]], Call]) -> list[Tensor]:
        """The scores of `chunks` from their holders, in order."""
        own: dict[int, dict[int, int]] = {}
        for index, places in self._places.items():
            number_of = {place: number for number, place in enumerate(places)}
            if asked := {chunk: number_of[chunk] for chunk in chunks if chunk in number_of}:
                own[index] = asked
        calls = {index: call(index, list(asked.values())) for index, asked in own.items()}
        found: dict[int, Tensor] = {}
        for index, scores in self._cluster.call(calls, self._rebuilt).items():
            found |= zip(own[index], scores, strict=True)
        return [found[chunk] for chunk in chunks]

    def _rebuilt(self, index: int, call: Call) -> list[Call]:
        """The calls that replay a question on a new holder, ending with the result of `call`."""
        again: Call = "condense", (self._asked[index], 0, self._steps[index])
        return [again] if call[0] == "condense" else [again, call]


class SpreadRefreshedDecoder(SpreadDecoder, RefreshedDecoder):
    """See `RefreshedDecoder`."""


class SpreadLookDecoder(LookDecoder):
    """A `LookDecoder` whose chunks are kept by holders."""

    def __init__(self, *args: Any, cluster: Cluster, config: FocusConfig, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cluster, self._config = cluster, config

    def head_scores(self, prompt_ids: Sequence[int], question: QuestionRows) -> list[Tensor]:
        """See `LookDecoder.head_scores`; one round trip to each holder."""
        shares = shares_of(self._cluster, self.blocks)
        calls: dict[int, Call] = {}
        for index, (parts, places) in shares.items():
            asked = Asked("", tuple(parts), tuple(places), self._config, tuple(prompt_ids), 1, question)
            calls[index] = "head_scores", (asked, self._heads)
        found: dict[int, Tensor] = {}
        for index, scores in self._cluster.call(calls).items():
            found |= zip(shares[index][1], scores, strict=True)
        return [found[chunk] for chunk in range(self.num_chunks)]


class SpreadLook(Look):
    """See `Look`."""

    def __init__(self, *args: Any, cluster: Cluster) -> None:
        super().__init__(*args)
        self._cluster = cluster

    def decoder(self, blocks: Sequence[MemoryBlock], max_new_tokens: int) -> LookDecoder:
        """See `OwnWay.decoder`."""
        return SpreadLookDecoder(
            self.base,
            blocks,
            kernel=self.kernel,
            heads=self.heads(),
            chunk_batch=self.config.chunk_batch,
            cluster=self._cluster,
            config=self.config,
        )


class Counted(Way):
    """Wraps a way of answering to report holders that were lost and replaced during the answer."""

    def __init__(self, way: Way, cluster: Cluster) -> None:
        self._way, self._cluster = way, cluster

    def check(self, request: Request) -> None:
        """See `Way.check`."""
        self._way.check(request)

    def stream(self, request: Request) -> Generator[TextPiece, None, None]:
        """See `Way.stream`."""
        before = self._cluster.num_replaced
        for piece in self._way.stream(request):
            lost = self._cluster.num_replaced - before
            if piece.answer is not None and lost:
                warning = f"{lost} of the processes that keep the documents were lost and replaced during this answer."
                usage = replace(piece.answer.usage, lost_workers=lost)
                answer = replace(piece.answer, usage=usage, warnings=(*piece.answer.warnings, warning))
                piece = TextPiece(piece, answer)
            yield piece


def answer_at_once(ways: Sequence[Way], questions: Sequence[Request], batch: int) -> list[Answer]:
    """Answer questions, up to `batch` concurrently; these share the holders' passes."""
    with ThreadPoolExecutor(min(batch, len(questions)), thread_name_prefix="focusdoc-question") as pool:
        return list(pool.map(lambda way, question: way.answer(question), ways, questions))


def spread_way(way: OwnWay[Any], cluster: Cluster) -> OwnWay[Any]:
    """The counterpart of `way` over chunks kept by a cluster."""
    if isinstance(way, Look):
        return SpreadLook(way.base, way.config, way.kernel, way.heads, cluster=cluster)
    assert isinstance(way, Candidates)  # the only other kind
    decoder = SpreadRefreshedDecoder if isinstance(way, Refreshed) else SpreadDecoder
    found = copy.copy(way)
    found.kind = partial(decoder, cluster=cluster)  # type: ignore[assignment]
    found.check_memory = lambda num_chunks, tokens: None  # type: ignore[method-assign]  # each holder checks its own
    return found
