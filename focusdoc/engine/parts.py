"""The parts of an engine: its weights and settings, and what it derives from them once for all questions."""

from __future__ import annotations

import copy
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

from focusdoc.attention import attention_kernel
from focusdoc.cluster.head import Cluster
from focusdoc.cluster.reading import SpreadReader
from focusdoc.cluster.spread import spread_way
from focusdoc.config import FocusConfig, GenerationConfig
from focusdoc.decoding.answering import OwnWay
from focusdoc.decoding.candidates import Candidates, Projections
from focusdoc.decoding.look import Look, num_layers_for
from focusdoc.memory.library import DocumentReader, open_store
from focusdoc.memory.plan import QUESTION_TOKENS
from focusdoc.memory.pool import total_memory
from focusdoc.memory.store import DocumentStore
from focusdoc.modeling.adapter import Adapter, untrained_adapter
from focusdoc.modeling.base import BaseModel
from focusdoc.modeling.candidate import LayerWeights
from focusdoc.modeling.low_rank import merged
from focusdoc.readers import Reader
from focusdoc.readers.finding import Finder
from focusdoc.readers.ways import own_way, resolve_config, writer_of
from focusdoc.training.calibration import Heads, retrieval_heads


class EngineParts:
    """What all questions to an engine share.

    Attributes:
        base: the frozen model.
        adapter: its candidate projections, or None.
        config: the settings in use.
        kernel: the attention implementation.
        store: where memories are kept on disk, or None.
        reader: the model that writes answers from the passages that `base` finds; None if `base` writes them itself.
        cluster: the processes that keep the chunks; None to keep them in this one.
    """

    def __init__(
        self,
        base: BaseModel,
        adapter: Adapter | None,
        config: FocusConfig | None = None,
        attention: str = "auto",
        store: DocumentStore | str | Path | None = None,
        reader: Reader | None = None,
        cluster: Cluster | None = None,
    ) -> None:
        if adapter is not None:
            adapter = merged(adapter, base.model, model_fingerprint=base.fingerprint)
        self.base = base
        self.reader = reader
        self.cluster = cluster
        self.store = open_store(store)
        self.config = resolve_config(config, base, adapter)
        untrained = adapter is None and self.config.allow_untrained
        self.adapter = untrained_adapter(base.model) if untrained else adapter
        self.kernel = attention_kernel(attention, base.device)
        self._projections = Projections(base, self.adapter)

    def with_reader(self, reader: Reader | None) -> Self:
        """This engine, sharing its weights, with another reader (None for the base model)."""
        other = copy.copy(self)
        other.reader = reader
        return other

    @property
    def chunk_size(self) -> int:
        """Tokens of one chunk."""
        return self.config.chunk_size or 0

    @property
    def memory_bytes(self) -> int:
        """Bytes of the RAM, or of the GPU, that keeps memories; of a cluster those that are free, of all hosts."""
        return total_memory(self.base.device) if self.cluster is None else sum(self.cluster.free_bytes().values())

    @property
    def maker(self) -> str:
        """Identifies everything that determines a memory: weights, dtype, number of layers and chunk size."""
        return self.documents.maker

    @property
    def writer(self) -> BaseModel:
        """The model whose tokenizer the answer's tokens belong to; see `focusdoc.readers.ways.writer_of`."""
        return writer_of(self.base, self.reader)

    @cached_property
    def heads(self) -> Heads:
        """The base model's retrieval heads as (layer, head) pairs.

        If they are unknown, a look calibrates them; without a look there are none.
        """
        return self.config.heads or retrieval_heads(self.base, self.kernel, calibrates=self.config.looks)

    @cached_property
    def documents(self) -> DocumentReader:
        """Reads documents with the base model; a look needs only the layers up to the highest retrieval head."""
        only_finds = self.adapter is not None and self.adapter.only_finds
        way, num_new = (self.finder.way, 1) if only_finds else (self.own_way, GenerationConfig.max_new_tokens)
        settings: dict[str, Any] = {
            "store": self.store,
            "batch": self.config.read_batch,
            "memory_dtype": self.config.memory_dtype,
            # The tail of a typical question and answer.
            "tail_tokens": way.num_tail_tokens(QUESTION_TOKENS, num_new),
        }
        make = DocumentReader if self.cluster is None else partial(SpreadReader, cluster=self.cluster)
        reader = make(self.base, self.chunk_size, self.kernel, **settings)
        return reader.with_first_layers(num_layers_for(self.heads)) if isinstance(way, Look) else reader

    def num_tail_tokens(self, prompt_tokens: int, new_tokens: int) -> int:
        """Tokens behind every chunk for a question and its answer; a reader's answer is not among them."""
        if self.reader is None:
            return self.own_way.num_tail_tokens(prompt_tokens, new_tokens)
        return self.finder.way.num_tail_tokens(prompt_tokens, 1)

    @cached_property
    def finder(self) -> Finder:
        """Ranks the windows of documents, for a reader: by candidates that were trained to find, if there are any."""
        explicit_look = self.config.looks and self.adapter is not None and not self.adapter.only_finds
        found = None if explicit_look else self._projections.that_find
        if found is not None:
            return Finder(self._spread(Candidates(self.base, self.config, self.kernel, found)))
        heads = self.heads  # engines that share the finder must not keep each other
        way = own_way(self.base, self.config, self.kernel, self._projections, lambda: heads)
        return Finder(self._spread(way), heads)

    @property
    def own_way(self) -> OwnWay[Any]:
        """How the base model answers without a reader."""
        return self._spread(own_way(self.base, self.config, self.kernel, self._projections, lambda: self.heads))

    def _spread(self, way: OwnWay[Any]) -> OwnWay[Any]:
        return way if self.cluster is None else spread_way(way, self.cluster)

    def require_adapter(self) -> list[LayerWeights]:
        """See `Projections.required`."""
        return self._projections.required()

    def check_ready(self) -> None:
        """Check that questions can be answered at all.

        Raises:
            AdapterError: candidates need an adapter, and there is none. ConfigError: this process is a fork of the one
                that loaded the model.
        """
        self.own_way.check_ready()
