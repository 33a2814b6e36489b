"""What every call of the engine stands on: weights, settings, checks, and the decoders made from them."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from focusdoc.attention import attention_kernel
from focusdoc.config import FocusConfig, GenerationConfig
from focusdoc.decoding.direct import DirectDecoder
from focusdoc.decoding.limits import check_room, positions_left
from focusdoc.decoding.local_context import local_and_prompt
from focusdoc.decoding.parallel import ParallelDecoder
from focusdoc.decoding.prompt import PromptStyle, question_prompt
from focusdoc.decoding.quoting import Quoting, RenderQuoted
from focusdoc.errors import AdapterError, ConfigError, PromptTooLongError
from focusdoc.memory.chunk_memory import DocumentMemory, MemoryBlock, check_maker
from focusdoc.memory.library import open_store, read_through
from focusdoc.memory.plan import QUESTION_TOKENS, MemoryPlan
from focusdoc.memory.reading import Progress
from focusdoc.memory.speed import ReadingSpeed
from focusdoc.memory.store import DocumentStore
from focusdoc.modeling.adapter import Adapter, check_adapter, untrained_adapter
from focusdoc.modeling.base import BaseModel, CandidateWeights
from focusdoc.modeling.candidate import LayerWeights
from focusdoc.modeling.catalogue import known_model
from focusdoc.readers.answering import BUDGET
from focusdoc.readers.finding import Finder
from focusdoc.readers.fitting import fit_reading
from focusdoc.readers.local import LocalReader
from focusdoc.readers.reader import Messages, Reader, no_grammar

#: Room kept behind a chunk for the answer, in tokens, where the chunk size follows from the model's context.
ANSWER_ROOM = 512

_log = logging.getLogger(__name__)


class EngineCore:
    """The weights and settings of an engine; `focusdoc.engine.FocusEngine` adds what is done with them.

    Attributes:
        base: the frozen model.
        adapter: its candidate projections, or None.
        config: the settings in force.
        kernel: the implementation of attention.
        store: where memories are kept on disk, or None.
        finder: ranks the windows of documents, for a reader.
        reader: writes the answers from passages that the base model's candidates find; None for the base model itself.
    """

    def __init__(
        self,
        base: BaseModel,
        adapter: Adapter | None,
        config: FocusConfig | None = None,
        attention: str = "auto",
        store: DocumentStore | str | Path | None = None,
        reader: Reader | None = None,
    ) -> None:
        self.base = base
        self.reader = reader
        self.store = open_store(store)
        if config is None:
            refreshed = adapter is not None and adapter.config.local_attention == "refresh"
            config = FocusConfig.paper() if refreshed else FocusConfig()
        if adapter is not None:
            check_adapter(adapter, base.model, model_fingerprint=base.fingerprint)
        untrained = adapter is None and config.allow_untrained
        if untrained:
            adapter = untrained_adapter(base.model)
        self.adapter = adapter
        self.config = config.with_defaults(
            chunk_size=self._default_chunk_size(adapter, config),
            candidate_positions=adapter.config.candidate_positions if adapter is not None else "sequential",
            condensing="candidates" if adapter is not None or config.local_attention == "refresh" else "none",
            quotes=adapter is not None and not untrained,
        )
        if self.config.direct and config.condensing is None:
            _log.warning(
                "%s has no adapter: it answers in direct mode, which fades beyond its own context of %d tokens.",
                base.name,
                base.context_length,
            )
        anchored = f" and anchor {self.config.anchor}" if self.config.anchor else ""
        if self.chunk_size + self.config.anchor >= base.context_length:
            raise ConfigError(
                f"chunk_size is {self.chunk_size}{anchored}, but {base.name} sees {base.context_length} tokens at once "
                "and a chunk must leave room for the question; choose a smaller chunk_size."
            )
        self.kernel = attention_kernel(attention, base.device)
        self.finder = Finder(known.retrieval_heads if (known := known_model(base.name)) else ())
        self._speed = ReadingSpeed(base, self.chunk_size)
        self._weights = _on(base, adapter) if adapter is not None else None
        self._packed: CandidateWeights | None = None

    @property
    def chunk_size(self) -> int:
        """Tokens of one chunk."""
        return self.config.chunk_size or 0

    @property
    def maker(self) -> str:
        """Names everything that shapes a memory: the weights, their dtype, and the chunk size."""
        dtype = str(self.base.dtype).removeprefix("torch.")
        anchored = f" behind an anchor of {self.config.anchor}" if self.config.anchor else ""
        return f"{self.base.name} {self.base.fingerprint[:12]} {dtype}, chunks of {self.chunk_size}{anchored}"

    @property
    def writer(self) -> BaseModel:
        """The model whose tokens an answer is made of, which a grammar must be made for.

        Raises:
            ConfigError: a reader writes that is not in this process.
        """
        if self.reader is None:
            return self.base
        if not isinstance(self.reader, LocalReader):
            raise no_grammar(self.reader.name)
        return self.reader.base

    def with_reader(self, reader: Reader | None) -> Self:
        """The same engine, with the same weights, whose answers another reader writes (None for the base model)."""
        if self._weights is not None and not self.config.direct:
            self._packed_weights  # noqa: B018  # packed now, so that both share them
        other = copy.copy(self)
        other.reader = reader
        return other

    def check_reader(self, said: Messages | None, settings: GenerationConfig) -> None:
        """Raise what the reader would, where there is one, so that no document need be read to find out.

        Args:
            said: the conversation, which ends with the question; None where the base model writes in any case.

        Raises:
            ConfigError, PromptTooLongError: it cannot keep to the settings; the question does not fit into its window.
        """
        if self.reader is None:
            return
        if said is not None:
            self.reader.check(settings)
            fit_reading(self.reader, said[-1][1], said[:-1], settings, BUDGET)
        elif settings.grammar is not None:
            raise ConfigError(
                f"{self.base.name} continues this prompt by itself, and a grammar holds for the tokens of the reader "
                f"{self.reader.name}; leave one of them out."
            )

    def require_adapter(self) -> list[LayerWeights]:
        """The candidate weights of every layer.

        Raises:
            AdapterError: there is no adapter, and untrained candidates were not asked for.
        """
        if self._weights is None:
            raise AdapterError(
                f"{self.base.name} has no adapter, and untrained candidates retrieve nothing: pass adapter=<folder> "
                "(train one with `focusdoc train`), or FocusConfig(allow_untrained=True) for experiments."
            )
        return self._weights

    def check_ready(self) -> None:
        """Make sure that questions can be answered at all.

        Raises:
            AdapterError: candidates are asked for, and there is no adapter. ConfigError: this is a fork of the process
                that loaded the model.
        """
        self.base.check_process()
        if not self.config.direct:
            self.require_adapter()

    def _own(self, memory: DocumentMemory | Sequence[DocumentMemory]) -> list[DocumentMemory]:
        """One memory or several as a list of this engine's own."""
        memories = list(memory) if isinstance(memory, Iterable) else [memory]
        if not memories or not all(isinstance(one, DocumentMemory) for one in memories):
            raise ConfigError("There is no memory to ask; pass what engine.read gave, one memory or a list of them.")
        check_maker(memories, self.maker)
        return memories

    def _prepare(
        self, question: str, style: PromptStyle, generation: dict[str, Any]
    ) -> tuple[GenerationConfig, list[int], list[int]]:
        """The settings, the local context and the dynamic prompt of a question."""
        self.check_ready()
        return self._fitting(self._rendered(question, style), generation)

    def _rendered(self, question: str, style: PromptStyle, quoted: str = "") -> list[int]:
        """Token ids of a question in its template, with a text of passages in front of it."""
        with self.base.tokenizer_lock:
            return question_prompt(self._tokenizer, question, style, quoted)

    def _quoting(
        self,
        render: RenderQuoted | None,
        memories: Sequence[DocumentMemory],
        local_len: int,
        settings: GenerationConfig,
    ) -> Quoting | None:
        """How passages join a local context of `local_len` tokens; None where there is no room, or none are wanted."""
        if render is None or not self.config.quote_tokens:
            return None
        in_window = self.config.local_window - local_len
        num_chunks = sum(block.num_chunks for memory in memories for block in memory.blocks)
        positions = positions_left(self.base, self.config, num_chunks, local_len, settings.max_new_tokens)
        limit = min(self.config.quote_tokens, in_window, positions)
        if limit <= 0:
            return None
        return Quoting(
            limit, lambda text: local_and_prompt(self.base, self.config, list(render(text)))[0], self._tokenizer
        )

    def _fitting(self, ids: list[int], generation: dict[str, Any]) -> tuple[GenerationConfig, list[int], list[int]]:
        """The settings, the local context and the dynamic prompt of a rendered question."""
        settings = GenerationConfig(**generation)
        self.check_ready()
        if len(ids) > self.config.local_window:
            raise PromptTooLongError(
                f"The question takes {len(ids)} tokens with its template, more than the local window of "
                f"{self.config.local_window}; shorten it, or raise local_window."
            )
        return settings, *local_and_prompt(self.base, self.config, ids)

    def _check_room(self, document_lengths: Sequence[int], local_len: int, settings: GenerationConfig) -> None:
        check_room(
            self.base,
            self.config,
            longest_chunk=min(self.chunk_size, max(document_lengths, default=0)),
            num_chunks=sum(math.ceil(length / self.chunk_size) for length in document_lengths),
            local_len=local_len,
            max_new_tokens=settings.max_new_tokens,
        )

    def _decoder(self, blocks: Sequence[MemoryBlock], settings: GenerationConfig) -> ParallelDecoder | DirectDecoder:
        if not self.config.direct:
            return self._parallel_decoder(blocks, settings)
        return DirectDecoder(
            self.base,
            blocks,
            kernel=self.kernel,
            start=self.config.anchor + self.chunk_size,
            max_new_tokens=settings.max_new_tokens,
        )

    def _parallel_decoder(
        self, blocks: Sequence[MemoryBlock], settings: GenerationConfig, chunk_batch: int | None = None
    ) -> ParallelDecoder:
        return ParallelDecoder(
            self.base,
            self._packed_weights,
            blocks,
            kernel=self.kernel,
            config=self.config if chunk_batch is None else replace(self.config, chunk_batch=chunk_batch),
            max_new_tokens=settings.max_new_tokens,
        )

    def _read_tokens(
        self,
        ids: Sequence[int],
        store: DocumentStore | None = None,
        progress: Progress | None = None,
        name: str = "",
        on_plan: Callable[[MemoryPlan], None] | None = None,
    ) -> tuple[tuple[MemoryBlock, ...], int]:
        return read_through(
            store,
            self.base,
            ids,
            self.chunk_size,
            self.kernel,
            batch=self.config.read_batch,
            progress=progress,
            document=name,
            anchor=self.config.anchor,
            memory_dtype=self.config.memory_dtype,
            tail_tokens=self._tail_tokens,
            speed=self._speed,
            on_plan=on_plan,
        )

    @property
    def _tail_tokens(self) -> int:
        """Tokens that a plan keeps room for behind every chunk: a usual question and answer."""
        if self.config.direct:
            return 0
        return min(self.config.prompt_window, QUESTION_TOKENS) + GenerationConfig.max_new_tokens

    def _default_chunk_size(self, adapter: Adapter | None, config: FocusConfig) -> int:
        if adapter is not None and adapter.config.chunk_size is not None:
            return adapter.config.chunk_size
        room = self.base.context_length - config.prompt_window - ANSWER_ROOM
        return max(1, room if room > 0 else self.base.context_length // 2)

    @property
    def _packed_weights(self) -> CandidateWeights:
        with self.base.lock:  # once, whichever thread asks first
            if self._packed is None:
                self._packed = self.base.packed(self.require_adapter())
            return self._packed

    @property
    def _tokenizer(self) -> Any:
        if self.base.tokenizer is None:
            raise ConfigError(
                f"{self.base.name} came without a tokenizer, so it can neither read text nor be asked in words; "
                "pass tokenizer=, put tokenizer.json beside the weights, or use generate(input_ids)."
            )
        return self.base.tokenizer


def _on(base: BaseModel, adapter: Adapter) -> list[LayerWeights]:
    """The adapter's weights of every layer, in the model's dtype and on its device."""
    return [
        {letter: weight.to(base.device, base.dtype) for letter, weight in adapter.of_layer(layer).items()}
        for layer in range(base.num_layers)
    ]
