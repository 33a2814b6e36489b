"""What every call of the engine stands on: weights, settings, checks, and the way that it answers."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from focusdoc.attention import attention_kernel
from focusdoc.calibration import CHUNK_SIZE, Heads, heads_of
from focusdoc.config import FocusConfig, GenerationConfig
from focusdoc.decoding.answering import Asked, OwnWay, Way
from focusdoc.decoding.candidates import Candidates, Projections, Refreshed
from focusdoc.decoding.look import Look, layers_of
from focusdoc.decoding.plain import Plain
from focusdoc.decoding.prompt import PromptStyle, local_and_prompt, question_prompt
from focusdoc.decoding.quoting import Quoted
from focusdoc.errors import ConfigError, PromptTooLongError
from focusdoc.memory.chunk_memory import DocumentMemory, check_maker
from focusdoc.memory.library import DocumentReader, open_store
from focusdoc.memory.plan import QUESTION_TOKENS
from focusdoc.memory.store import DocumentStore
from focusdoc.modeling.adapter import Adapter, check_adapter, untrained_adapter
from focusdoc.modeling.base import BaseModel
from focusdoc.modeling.candidate import LayerWeights
from focusdoc.modeling.catalogue import known_model
from focusdoc.readers.alone import Alone
from focusdoc.readers.finding import Finder
from focusdoc.readers.local import LocalReader
from focusdoc.readers.overview import Overview, asks_for_overview
from focusdoc.readers.reader import Reader, no_grammar
from focusdoc.readers.reading import Read

#: Room kept behind a chunk for the answer, in tokens, where the chunk size follows from the model's context.
ANSWER_ROOM = 512


class EngineCore:
    """The weights and settings of an engine; `focusdoc.engine.FocusEngine` adds what is done with them.

    Attributes:
        base: the frozen model.
        adapter: its candidate projections, or None.
        config: the settings in force.
        kernel: the implementation of attention.
        store: where memories are kept on disk, or None.
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
            condensing="candidates" if adapter is not None or config.local_attention == "refresh" else "look",
            quotes=adapter is not None and not untrained,
        )
        if self.chunk_size >= base.context_length:
            raise ConfigError(
                f"chunk_size is {self.chunk_size}, but {base.name} sees {base.context_length} tokens at once and a "
                "chunk must leave room for the question; choose a smaller chunk_size."
            )
        for layer, head in config.heads or ():
            if layer >= base.num_layers or head >= base.num_heads:
                raise ConfigError(
                    f"heads names head {head} of layer {layer}, but {base.name} has {base.num_heads} heads in each of "
                    f"{base.num_layers} layers; both are counted from 0."
                )
        self.kernel = attention_kernel(attention, base.device)
        self._projections = Projections(base, adapter)

    @property
    def chunk_size(self) -> int:
        """Tokens of one chunk."""
        return self.config.chunk_size or 0

    @cached_property
    def heads(self) -> Heads:
        """The base model's retrieval heads, (layer, head) pairs; for a look they are found where they are not known,
        else there are none then.
        """
        known = known_model(self.base.name)
        heads = self.config.heads or (known.retrieval_heads if known is not None else ())
        return heads_of(self.base, self.kernel) if self.config.looks and not heads else heads

    @cached_property
    def finder(self) -> Finder:
        """Ranks the windows of documents, for a reader."""
        return Finder(self.heads)

    @cached_property
    def documents(self) -> DocumentReader:
        """Reads documents: with the base model, of which a look needs the layers up to its highest head."""
        base = self.base.upto(layers_of(self.heads)) if self.config.looks else self.base
        return self._document_reader(base, self.store)

    def _document_reader(self, base: BaseModel, store: DocumentStore | None) -> DocumentReader:
        return DocumentReader(
            base,
            self.chunk_size,
            self.kernel,
            store=store,
            batch=self.config.read_batch,
            memory_dtype=self.config.memory_dtype,
            # Of a usual question and answer.
            tail_tokens=self.own_way.num_behind(QUESTION_TOKENS, GenerationConfig.max_new_tokens),
        )

    @property
    def maker(self) -> str:
        """Names everything that shapes a memory: the weights, their dtype, the layers kept, and the chunk size."""
        return self.documents.maker

    @cached_property
    def _whole_documents(self) -> DocumentReader:
        """As `documents`, but with all layers of the base model."""
        return self._document_reader(self.base, self.store) if self.documents.base.is_part else self.documents

    def _documents_for(self, ids: Sequence[int]) -> DocumentReader:
        """What reads a document: where the store has all layers of it already, they serve a look too."""
        whole = self._whole_documents
        return whole if whole is not self.documents and whole.knows(ids) else self.documents

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
        other = copy.copy(self)
        other.reader = reader
        return other

    @property
    def own_way(self) -> OwnWay[Any]:
        """How the base model answers by itself."""
        if self.config.looks:
            return Look(self.base, self.config, self.kernel, lambda: self.heads)
        refreshed = self.config.local_attention == "refresh"
        kind = Refreshed if refreshed else Quoted if self.config.quote_tokens else Candidates
        return kind(self.base, self.config, self.kernel, self._projections)

    def _way(self, asked: Asked, *, documents: bool = True) -> Way:
        """How a call is answered; everything else is the same for all ways.

        Raises:
            ConfigError: the base model is to continue a prompt by the grammar of a reader's tokens.
        """
        if self.reader is not None and asked.said:
            if not documents:
                return Alone(self.reader)
            by_words = asked.overview is None and asks_for_overview(asked.said[-1][1])
            kind = Overview if asked.overview or by_words else Read
            return kind(self.own_way, self.reader, self.finder)
        if self.reader is not None and asked.settings.grammar is not None:
            raise ConfigError(
                f"{self.base.name} continues this prompt by itself, and a grammar holds for the tokens of the reader "
                f"{self.reader.name}; leave one of them out."
            )
        return self.own_way if documents else Plain(self.base)

    def require_adapter(self) -> list[LayerWeights]:
        """See `Projections.required`."""
        return self._projections.required()

    def check_ready(self) -> None:
        """Make sure that questions can be answered at all.

        Raises:
            AdapterError: candidates are asked for, and there is no adapter. ConfigError: this is a fork of the process
                that loaded the model.
        """
        self.own_way.check_ready()

    def _own(self, memory: DocumentMemory | Sequence[DocumentMemory]) -> list[DocumentMemory]:
        """One memory or several as a list of this engine's own."""
        memories = list(memory) if isinstance(memory, Iterable) else [memory]
        if not memories or not all(isinstance(one, DocumentMemory) for one in memories):
            raise ConfigError("There is no memory to ask; pass what engine.read gave, one memory or a list of them.")
        # A memory of all layers serves a look, which needs the lower ones.
        check_maker(memories, self.maker, self._whole_documents.maker)
        return memories

    def _rendered(self, question: str, style: PromptStyle, quoted: str = "") -> list[int]:
        """Token ids of a question in its template, with a text of passages in front of it."""
        with self.base.tokenizer_lock:
            return question_prompt(self._tokenizer, question, style, quoted)

    def _asked(
        self, memories: Sequence[DocumentMemory], ids: list[int], generation: dict[str, Any], **more: Any
    ) -> Asked:
        """What a rendered prompt asks, with `more` of `Asked`; without memories, of documents that are not read yet."""
        settings = GenerationConfig(**generation)
        self.check_ready()
        if len(ids) > self.config.local_window:
            raise PromptTooLongError(
                f"The question takes {len(ids)} tokens with its template, more than the local window of "
                f"{self.config.local_window}; shorten it, or raise local_window."
            )
        return Asked(memories, *local_and_prompt(self.base, self.config, ids), settings, self._tokenizer, **more)

    def _default_chunk_size(self, adapter: Adapter | None, config: FocusConfig) -> int:
        if adapter is not None and adapter.config.chunk_size is not None:
            return adapter.config.chunk_size
        room = self.base.context_length - config.prompt_window - ANSWER_ROOM
        return max(1, min(CHUNK_SIZE, room if room > 0 else self.base.context_length // 2))

    @property
    def _tokenizer(self) -> Any:
        if self.base.tokenizer is None:
            raise ConfigError(
                f"{self.base.name} came without a tokenizer, so it can neither read text nor be asked in words; "
                "pass tokenizer=, put tokenizer.json beside the weights, or use generate(input_ids)."
            )
        return self.base.tokenizer
