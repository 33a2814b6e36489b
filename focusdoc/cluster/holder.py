"""A holder: a process that keeps some of the chunks, and runs the dynamic prompt behind them.

Candidates never see the local context (FocusLLM, section 3.1), so any process can keep a chunk: each step sends the
newest token to the holders, which return one key and one value per chunk, layer and KV head.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from focusdoc.attention import attention_kernel
from focusdoc.config import FocusConfig
from focusdoc.decoding.candidates import Projections
from focusdoc.decoding.look import LookDecoder
from focusdoc.decoding.parallel import ParallelDecoder
from focusdoc.decoding.state import TAIL_STEP, ChunkGroup, QuestionRows, check_free_memory
from focusdoc.errors import MemoryMismatchError
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.library import DocumentReader, open_store
from focusdoc.memory.plan import free_bytes
from focusdoc.memory.store import DocumentStore
from focusdoc.modeling.adapter import Adapter
from focusdoc.modeling.base import BaseModel, load_base


@dataclass(frozen=True, kw_only=True)
class HolderSettings:
    """What a holder loads.

    Attributes:
        model: as for `FocusEngine.from_pretrained`; a name or folder must exist on the holder's host.
        fingerprint: of the head's base model.
        store: as for `open_store`; a folder shared by all hosts lets a holder take over from another without reading.
        num_threads: threads of a holder; 0 for torch's default.
        version: the head's version of focusdoc.
    """

    model: Any
    adapter: Adapter | None
    fingerprint: str
    device: str = "auto"
    dtype: str | torch.dtype = "auto"
    attention: str = "auto"
    store: DocumentStore | str | Path | None = "auto"
    num_threads: int = 0
    version: str = field(default_factory=lambda: version("focusdoc"))


@dataclass(frozen=True)
class Part:
    """Consecutive chunks of one document that a holder keeps.

    Attributes:
        key: unique among all parts.
        num_layers: layers of the base model whose keys and values are kept.
        batch: chunks per pass while reading.
        document: display name of document and part, for ``focusdoc store list``.
    """

    key: str
    token_ids: tuple[int, ...]
    chunk_size: int
    num_layers: int
    batch: int
    memory_dtype: str
    document: str = ""


@dataclass(frozen=True)
class Asked:
    """A holder's share of a question.

    Attributes:
        key: unique among all questions.
        parts: keys of the holder's parts, in order.
        places: index of each of their chunks among all chunks of the question.
        question: rows to score for, see `AnswerDecoder.look`.
        finds: whether the candidates are those that were trained to find.
    """

    key: str
    parts: tuple[str, ...]
    places: tuple[int, ...]
    config: FocusConfig
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    question: QuestionRows | None = None
    finds: bool = False


@dataclass(frozen=True)
class CandidateStep:
    """The tokens that a step feeds to every chunk: the `ordinary` ones, and the candidate's `newest`.

    `active` are the indices of the holder's chunks that stay active from this step on; None for no change.
    """

    ordinary: tuple[int, ...]
    newest: int
    active: tuple[int, ...] | None = None


class UnknownQuestionError(Exception):
    """A holder lacks the state of a question, as after a restart. Internal to the cluster."""


class ChunkSide(ParallelDecoder):
    """The chunks' side of a `ParallelDecoder`: its sweeps have candidates but no local rows."""

    def __init__(self, *args: Any, asked: Asked, **kwargs: Any) -> None:
        super().__init__(*args, config=asked.config, max_new_tokens=asked.max_new_tokens, **kwargs)
        self._places = asked.places
        self._question = asked.question
        self.num_steps = 0
        self.prepare_start([], asked.prompt_ids)

    def candidate_positions(self, group: ChunkGroup) -> Tensor:
        """See `ParallelDecoder.candidate_positions`; counts the chunks of all holders."""
        own = super().candidate_positions(group)
        return own if self._shared else torch.tensor(self._places)[own]

    @torch.no_grad()
    def condense(self, step: CandidateStep) -> tuple[Tensor, Tensor]:
        """Run a step; return its candidates' keys and values, [num_layers, num_kv_heads, active chunks, head_dim]."""
        if step.active is not None:
            self.keep_active(list(step.active))
        self._stepped = self.num_steps > 0
        self._newest = step.newest
        passes = self.passes(list(step.ordinary), [])
        self.together.run(self.base, self.weights, passes)
        self.tail_len += len(step.ordinary)
        self.num_steps += 1
        count = len(self.active)
        return _alone(self.local.keys[:, :, :count]), _alone(self.local.values[:, :, :count])


@dataclass
class _Held:
    """The blocks of a part, once they are read."""

    blocks: tuple[MemoryBlock, ...] = ()
    lock: threading.Lock = field(default_factory=threading.Lock)


class Holder:
    """Keeps parts of documents and the questions asked of them. Thread-safe: concurrent questions share their passes.

    Raises:
        MemoryMismatchError: this host's version of focusdoc or base model differs from the head's.
    """

    def __init__(self, settings: HolderSettings) -> None:
        if (own := version("focusdoc")) != settings.version:
            raise MemoryMismatchError(
                f"A holder has focusdoc {own}, the head {settings.version}; install the same version on every host."
            )
        if settings.num_threads:
            torch.set_num_threads(settings.num_threads)
        self._base = load_base(settings.model, device=settings.device, dtype=settings.dtype)
        if self._base.fingerprint != settings.fingerprint:
            raise MemoryMismatchError(
                f"A holder's base model {self._base.name} has the fingerprint {self._base.fingerprint[:12]}, the "
                f"head's {settings.fingerprint[:12]}; install the same model on every host."
            )
        self._kernel = attention_kernel(settings.attention, self._base.device)
        self._projections = Projections(self._base, settings.adapter)
        self._store = open_store(settings.store)
        self._parts: dict[str, _Held] = {}
        self._asked: dict[str, ChunkSide] = {}

    def free_bytes(self) -> int:
        """Free bytes on the device of the keys and values."""
        return free_bytes(self._base.device)

    def num_stored(self, parts: Sequence[Part]) -> int:
        """Total tokens of those parts that are in the store."""
        return sum(len(part.token_ids) for part in parts if self._reader(part).is_stored(part.token_ids))

    def forget(self, parts: Sequence[Part]) -> None:
        """Remove parts from the store; parts in memory stay usable."""
        for part in parts:
            self._reader(part).forget(part.token_ids)

    def read(self, part: Part) -> tuple[list[tuple[int, int]], int, int]:
        """Read a part, or load it from the store.

        Returns:
            (num_chunks, chunk_len) of each block, the bytes of all blocks, and the tokens that went through the model.
        """
        held = self._parts.setdefault(part.key, _Held())
        with held.lock:
            encoded = 0
            if not held.blocks:
                held.blocks, encoded = self._reader(part).read(
                    part.token_ids, document=part.document, on_plan=lambda _: None
                )
            shapes = [(block.num_chunks, block.chunk_len) for block in held.blocks]
            return shapes, sum(block.num_bytes for block in held.blocks), encoded

    def drop(self, key: str) -> None:
        """Free a part."""
        self._parts.pop(key, None)

    def condense(self, asked: Asked, done: int, steps: Sequence[CandidateStep]) -> tuple[Tensor, Tensor]:
        """Run `steps` after `done` earlier ones; return the candidates of the last, see `ChunkSide.condense`.

        Raises:
            UnknownQuestionError: this holder has not run exactly `done` steps.
        """
        decoder = self._asked.get(asked.key)
        if done == 0:
            decoder = self._asked[asked.key] = self._decoder(asked)
        if decoder is None or decoder.num_steps != done:
            raise UnknownQuestionError(asked.key)
        for step in steps:
            found = decoder.condense(step)
        return found

    def answer_token_scores(
        self, key: str, chunks: Sequence[int], token_ids: Sequence[int], masses: Tensor, prompt_len: int
    ) -> list[Tensor]:
        """See `AnswerDecoder.answer_token_scores`; `chunks` index this holder's chunks of the question."""
        scores = self._known(key).answer_token_scores(chunks, token_ids, masses, prompt_len=prompt_len)
        return [_alone(each) for each in scores]

    def question_token_scores(self, key: str, chunks: Sequence[int]) -> list[Tensor]:
        """See `AnswerDecoder.question_token_scores`; `chunks` as for `answer_token_scores`."""
        return [_alone(each) for each in self._known(key).question_token_scores(chunks)]

    def head_scores(self, asked: Asked, heads: tuple[tuple[int, int], ...]) -> list[Tensor]:
        """The retrieval heads' scores for the question in every chunk: float32 [heads, chunk_len] each."""
        assert asked.question is not None
        decoder = LookDecoder(
            self._base, self._blocks(asked), kernel=self._kernel, heads=heads, chunk_batch=asked.config.chunk_batch
        )
        return [_alone(each) for each in decoder.head_scores(asked.prompt_ids, asked.question)]

    def close(self, key: str) -> None:
        """Discard a question."""
        self._asked.pop(key, None)

    def _known(self, key: str) -> ChunkSide:
        if key not in self._asked:
            raise UnknownQuestionError(key)
        return self._asked[key]

    def _blocks(self, asked: Asked) -> list[MemoryBlock]:
        # A part is listed before it is read; without its blocks, its chunks would be missing from the answer.
        if missing := [key for key in asked.parts if key not in self._parts or not self._parts[key].blocks]:
            raise UnknownQuestionError(missing[0])
        return [block for key in asked.parts for block in self._parts[key].blocks]

    def _decoder(self, asked: Asked) -> ChunkSide:
        blocks = self._blocks(asked)
        tokens = len(asked.prompt_ids) + min(TAIL_STEP, asked.max_new_tokens)
        check_free_memory(self._base, sum(block.num_chunks for block in blocks), tokens)
        projections = (self._projections.that_find if asked.finds else None) or self._projections
        return ChunkSide(
            self._base,
            projections.packed(),
            blocks,
            asked=asked,
            kernel=self._kernel,
            together=projections.together,
            finding=projections.finding,
        )

    def _reader(self, part: Part) -> DocumentReader:
        base: BaseModel = self._base.first_layers(part.num_layers)
        return DocumentReader(
            base,
            part.chunk_size,
            self._kernel,
            store=self._store,
            batch=part.batch,
            memory_dtype=part.memory_dtype,  # type: ignore[arg-type]  # checked by the head's configuration
        )


def _alone(tensor: Tensor) -> Tensor:
    """A copy in its own CPU storage: sending a view would send its whole storage."""
    return tensor.cpu().clone(memory_format=torch.contiguous_format)
