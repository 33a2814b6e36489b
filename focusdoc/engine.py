"""The engine: read a document once, ask it many questions."""

from __future__ import annotations

import copy
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

import torch
from torch import Tensor

from focusdoc.attention import attention_kernel
from focusdoc.config import FocusConfig, GenerationConfig, at_least
from focusdoc.decoding.answer import Answer, Generation, TextPiece
from focusdoc.decoding.answering import OwnWay, Way
from focusdoc.decoding.candidates import Projections
from focusdoc.decoding.generation import TokenLoop, complete
from focusdoc.decoding.look import num_layers_for
from focusdoc.decoding.prompt import Options, RenderQuoted, Request, bos_token, flat_ids, tokenizer_of
from focusdoc.documents import Document, cut_chunks, load, tokenize
from focusdoc.documents.chunking import TokenizedText
from focusdoc.errors import AdapterError, ConfigError
from focusdoc.memory.chunk_memory import DocumentMemory, MemoryBlock, check_maker
from focusdoc.memory.library import DocumentReader, open_store
from focusdoc.memory.plan import QUESTION_TOKENS, MemoryPlan
from focusdoc.memory.pool import total_memory
from focusdoc.memory.reading import Progress
from focusdoc.memory.store import DocumentStore
from focusdoc.modeling.adapter import Adapter, check_adapter, untrained_adapter
from focusdoc.modeling.adapter_files import load_adapter, shipped_adapter_path
from focusdoc.modeling.base import BaseModel, load_base
from focusdoc.modeling.candidate import LayerWeights
from focusdoc.modeling.catalogue import DEFAULT_MODEL, known_model
from focusdoc.modeling.low_rank import merged
from focusdoc.readers import Reader, open_reader
from focusdoc.readers.finding import Finder, Found
from focusdoc.readers.reader import Messages
from focusdoc.readers.ways import choose_way, own_way, resolve_config, start_generation, writer_of
from focusdoc.storage import cache_path
from focusdoc.terminal import progress_bar
from focusdoc.training.calibration import Heads, retrieval_heads

if TYPE_CHECKING:
    from focusdoc.cluster.head import Cluster

Memories = DocumentMemory | Sequence[DocumentMemory]


class FocusEngine:
    """Answers questions over documents of any length with a frozen model and its candidate projections.

    Build it with `from_pretrained`. It keeps no state between calls but the weights; memories belong to the caller.

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
            check_adapter(adapter, base.model, model_fingerprint=base.fingerprint)
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

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | Any | None = None,
        *,
        tokenizer: Any | None = None,
        adapter: str | Path | None = "auto",
        config: FocusConfig | None = None,
        device: str = "auto",
        dtype: str | torch.dtype = "auto",
        attention: str = "auto",
        store: DocumentStore | str | Path | None = "auto",
        reader: Reader | str | Path | Any | None = None,
        reader_model: str | None = None,
        cluster: int | str | None = None,
    ) -> FocusEngine:
        """Load a model and its adapter.

        A model object is not modified: passes run through separate modules that share its weights. On CPU, the process
        keeps up to 256 MiB of freed memory (glibc), and torch uses no more threads than the container's quota allows;
        the environment variable ``FOCUSDOC_PROCESS=keep`` changes neither.

        Args:
            model: a catalogue name (``focusdoc models list``), a folder, a hub name, a transformers model object, or
                None for the embedded default. A model loaded before a fork is refused in the child process.
            tokenizer: the tokenizer for a model object; None loads the one beside the weights.
            adapter: an adapter folder, a safetensors file with the authors' ``beacon_*`` names, ``"auto"`` for the
                adapter shipped for this model, or None.
            config: settings; None for the mode the adapter was trained in.
            device, dtype: see `focusdoc.modeling.base.load_base`.
            attention: ``"auto"``, ``"sdpa"``, ``"flash"`` or ``"naive"``; see `focusdoc.attention.attention_kernel`.
            store: where memories are cached, so that no document is read twice: ``"auto"`` for the user's cache, a
                folder, or None.
            reader: a larger model that writes the answers from passages found by `model`: anything `model` may be,
                the address of an OpenAI-compatible endpoint (``"http://localhost:11434/v1"``; its key in
                ``FOCUSDOC_READER_KEY``), or a `Reader`; "auto" for the catalogue's, if it is installed and fits
                (``FOCUSDOC_READER`` overrides it); None if `model` writes the answers itself.
            reader_model: the model name at the endpoint.
            cluster: where the chunks are kept: a number of processes on this machine, ``"auto"`` or the address of a
                Ray cluster (docs/cluster.md); None for this process.

        Raises:
            ClusterError: the cluster cannot be used.
            ModelNotFoundError, UnsupportedModelError, AdapterError, ConfigError: the model, the adapter or a setting
                cannot be used.
        """
        base = load_base(model, tokenizer=tokenizer, device=device, dtype=dtype)
        path = shipped_adapter_path(base.fingerprint) if adapter == "auto" else adapter
        known = known_model(DEFAULT_MODEL if model is None else model)
        if adapter == "auto" and path is None and known is not None and known.adapter is not None:
            raise AdapterError(
                f"The model {known.name} in {cache_path()} is not the one its adapter was trained for "
                f"(fingerprint {base.fingerprint[:12]}); remove it to convert it again, and install the versions of "
                "constraints.txt. adapter=None uses the model without an adapter, by a look."
            )
        loaded = None
        if path is not None:
            loaded = merged(load_adapter(path), base.model, model_fingerprint=base.fingerprint)
        opened = open_reader(reader, reader_model=reader_model, device=device, dtype=dtype)
        spread = None
        if cluster is not None:
            from focusdoc.cluster.holder import HolderSettings
            from focusdoc.cluster.ray_holders import open_cluster

            kept = store.folder if isinstance(store, DocumentStore) else store
            spread = open_cluster(
                cluster,
                HolderSettings(
                    model=model,
                    adapter=loaded,
                    fingerprint=base.fingerprint,
                    device=device,
                    dtype=str(base.dtype).removeprefix("torch."),
                    attention=attention,
                    store=None if kept is None else str(kept),
                ),
            )
        return cls(base, loaded, config, attention, store, opened, spread)

    def read(
        self,
        document: Document | str | os.PathLike[str] | bytes,
        *,
        progress: Progress | None = None,
        on_plan: Callable[[MemoryPlan], None] | None = None,
    ) -> DocumentMemory:
        """Read a document into a memory that can be asked any number of questions.

        Chunks that are in the store are loaded from it; the others are read and stored.

        Args:
            document: a `Document`, or anything `focusdoc.load` accepts.
            progress: called with (tokens read, total tokens); None for a progress bar, if standard error is a
                terminal.
            on_plan: called with the plan before anything is read; None logs it, as a warning if memory is too short
                for the model's own dtype.

        Raises:
            DocumentError: the document cannot be loaded or has no text. ConfigError: the model has no tokenizer.
            MemoryShortageError: the memory fits neither in free memory nor on disk.
        """
        if not isinstance(document, Document):
            document = load(document)
        _ = self.documents  # finding a new model's retrieval heads shows its own progress bar, so do it first
        bar = progress_bar(f"Reading {document.name}", "tokens") if progress is None else nullcontext(progress)
        with bar as show:
            tokenized = self._tokenized(document)
            chunks = tuple(cut_chunks(tokenized, self.chunk_size, document))
            reader = self._documents_for(tokenized.token_ids)
            blocks, encoded = reader.read(tokenized.token_ids, progress=show, document=document.name, on_plan=on_plan)
        return DocumentMemory(tuple(tokenized.token_ids), chunks, blocks, reader.maker, document, tokenized, encoded)

    def forget(self, document: Document | DocumentMemory) -> None:
        """Remove a document from the store; its memory stays usable."""
        ids = self._tokenized(document).token_ids if isinstance(document, Document) else document.token_ids
        for reader in {self.documents, self._full_documents}:
            reader.forget(ids)

    def plan(self, document: Document | str | os.PathLike[str] | bytes) -> MemoryPlan:
        """The bytes and seconds that reading a document would take, and where its memory would be; reads nothing.

        The plan's `rung` is "none" where `read` would raise MemoryShortageError.

        Raises:
            DocumentError: the document cannot be loaded or has no text. ConfigError: the model has no tokenizer.
        """
        document = document if isinstance(document, Document) else load(document)
        ids = self._tokenized(document).token_ids
        return self._documents_for(ids).plan(ids)

    def ask(self, memory: Memories, question: str, **options: Unpack[Options]) -> Answer:
        """Answer `question` from one or more memories.

        Args:
            options: see `Options`, such as ``max_new_tokens=64`` or ``temperature=0.7``.

        Raises:
            PromptTooLongError: the question does not fit in the local window. AdapterError: there is no adapter.
            MemoryMismatchError: another engine made a memory. ConfigError: a setting is out of range.
            ReaderError: the reader cannot be reached or fails; its ``.sources`` are the passages found.
            MemoryShortageError: the KV behind the chunks does not fit in free memory; also while the answer is being
                written, since that KV grows.
        """
        request = self._request(memory, question, options)
        return self._way(request).answer(request)

    def ask_many(
        self, memory: Memories, questions: Sequence[str], *, batch: int = 8, **options: Unpack[Options]
    ) -> list[Answer]:
        """Answer several questions over one or more memories; each answer is the one `ask` would return.

        A batch of questions is decoded together, so that each step reads weights and chunks once for all of them.

        Args:
            questions: the questions; answers are returned in this order.
            batch: questions per batch, at least 1. Each needs KV for its prompt and answer behind every chunk, so
                batches are smaller when memory is short.
            options: see `Options`.

        Raises:
            ConfigError: `batch` is below 1, or there is no question. Otherwise as `ask`, before any computation.
        """
        if isinstance(questions, str) or not questions:
            raise ConfigError(f"questions is {questions!r}; give a list with at least one question.")
        at_least("batch", batch, 1)
        request = [self._request(memory, each, options) for each in questions]
        ways = [self._way(each) for each in request]
        if self.cluster is not None:
            from focusdoc.cluster.spread import answer_at_once

            return answer_at_once(ways, request, batch)
        if len({type(way) for way in ways}) > 1:
            return [way.answer(each) for way, each in zip(ways, request, strict=True)]
        return ways[0].answer_many(request, batch)

    def stream(self, memory: Memories, question: str, **options: Unpack[Options]) -> Generator[TextPiece, None, None]:
        """Like `ask`, but yields the text as it is generated; the last piece's ``.answer`` is the complete answer.

        Errors in the arguments are raised by this call, not by the first ``next``.
        """
        request = self._request(memory, question, options)
        return self._way(request).stream(request)

    def stream_prompt(
        self,
        memory: Memories | None,
        prompt_ids: Sequence[int],
        *,
        quoted: RenderQuoted | None = None,
        said: Messages | None = None,
        **options: Unpack[Options],
    ) -> Generator[TextPiece, None, None]:
        """Like `stream`, for a local context rendered by the caller: token ids, up to where the answer begins.

        Args:
            memory: None to answer without documents, from the model's own context window.
            quoted: renders the prompt again with passages in it; None to quote none.
            said: the rendered conversation as (role, content) pairs, ending with the question. A reader uses it, since
                it has another tokenizer. If None, the base model writes in any case.

        Raises:
            PromptTooLongError: the prompt does not fit in the local window. Otherwise as `ask`; all by this call.
        """
        ids = flat_ids(prompt_ids, self.base.config.vocab_size)
        memories = () if memory is None else self._checked_memories(memory)
        fields = {"messages": said or (), "quoted": quoted, "has_documents": memory is not None}
        request = Request.from_ids(self.base, self.config, memories, ids, options, **fields)
        return self._way(request).stream(request)

    def find(self, memory: Memories, question: str) -> Found:
        """Score all windows of the memories' documents for a question; writes no answer.

        Raises:
            ConfigError: a memory was made from bare token ids. Otherwise as `ask`.
        """
        request = self._request(memory, question, {"max_new_tokens": 1})
        self.own_way.check(request)
        return self.finder.find(self.own_way.decoder(request.blocks, 1), request, question)

    def check_question(self, question: str, **options: Unpack[Options]) -> None:
        """Raise what `ask` would raise for this question, without reading a document first.

        Raises:
            PromptTooLongError, AdapterError, ConfigError: as `ask`.
        """
        self._way(self._request(None, question, options))

    def check_prompt(self, prompt_ids: Sequence[int], said: Messages | None = None, **options: Unpack[Options]) -> None:
        """Like `check_question`, for a local context rendered by the caller.

        Raises:
            PromptTooLongError, AdapterError, ConfigError: as `stream_prompt`.
        """
        ids = flat_ids(prompt_ids, self.base.config.vocab_size)
        self._way(Request.from_ids(self.base, self.config, (), ids, options, messages=said or ()))

    @torch.no_grad()
    def generate(
        self,
        input_ids: Sequence[int] | Tensor,
        *,
        return_logits: bool = False,
        cancel: threading.Event | None = None,
        **generation: Any,
    ) -> Generation:
        """Continue bare token ids of any length; no tokenizer is needed.

        Split as in the paper (section 3.1): the last `local_window` tokens are the local context, the tokens before
        them are cut into chunks from the left. Inputs below the threshold take the plain path.

        Args:
            input_ids: a list, or a tensor [n] or [1, n].
            return_logits: return the logits each token was chosen from.
            generation: fields of `GenerationConfig`, such as ``max_new_tokens=6``.

        Raises:
            ConfigError: the ids are not in the vocabulary, or a generation setting is out of range.
            PromptTooLongError: input and new tokens exceed the model's positions.
            AdapterError: the input needs chunks, and there is no adapter.
        """
        settings = GenerationConfig(**generation)
        if settings.stop and self.base.tokenizer is None:
            raise ConfigError("Stop strings need a tokenizer, and this model has none; use max_new_tokens instead.")
        ids = flat_ids(input_ids, self.base.config.vocab_size)
        started_at = time.perf_counter()
        decoder, logits, usage = start_generation(self.own_way, ids, settings, self._read_ids)
        loop = TokenLoop(decoder, logits, settings, history=ids, eos_token_ids=self.base.eos_token_ids, cancel=cancel)
        return complete(
            loop, settings, self.base.tokenizer, started_at=started_at, usage=usage, keep_logits=return_logits
        )

    def with_reader(self, reader: Reader | None) -> Self:
        """This engine, sharing its weights, with another reader (None for the base model)."""
        other = copy.copy(self)
        other.reader = reader
        return other

    @property
    def writer(self) -> BaseModel:
        """The model whose tokenizer the answer's tokens belong to; see `focusdoc.readers.ways.writer_of`."""
        return writer_of(self.base, self.reader)

    @property
    def own_way(self) -> OwnWay[Any]:
        """How the base model answers without a reader."""
        way = own_way(self.base, self.config, self.kernel, self._projections, lambda: self.heads)
        if self.cluster is None:
            return way
        from focusdoc.cluster.spread import spread_way

        return spread_way(way, self.cluster)

    @property
    def chunk_size(self) -> int:
        """Tokens of one chunk."""
        return self.config.chunk_size or 0

    @property
    def memory_bytes(self) -> int:
        """Bytes of the RAM, or of the GPU, that keeps memories; of a cluster those that are free, of all hosts."""
        return total_memory(self.base.device) if self.cluster is None else sum(self.cluster.free_bytes().values())

    @cached_property
    def heads(self) -> Heads:
        """The base model's retrieval heads as (layer, head) pairs.

        If they are unknown, a look calibrates them; without a look there are none.
        """
        known = known_model(self.base.name)
        heads = self.config.heads or (known.retrieval_heads if known is not None else ())
        return retrieval_heads(self.base, self.kernel) if self.config.looks and not heads else heads

    @cached_property
    def finder(self) -> Finder:
        """Ranks the windows of documents, for a reader."""
        return Finder(self.heads)

    @cached_property
    def documents(self) -> DocumentReader:
        """Reads documents with the base model; a look needs only the layers up to the highest retrieval head."""
        return self._document_reader(
            self.base.first_layers(num_layers_for(self.heads)) if self.config.looks else self.base, self.store
        )

    @cached_property
    def _full_documents(self) -> DocumentReader:
        """As `documents`, but with all layers of the base model."""
        return self._document_reader(self.base, self.store) if self.documents.base.is_partial else self.documents

    def _documents_for(self, ids: Sequence[int]) -> DocumentReader:
        """The reader for a document; if the store has all layers of it, those are used for a look too."""
        whole = self._full_documents
        return whole if whole is not self.documents and whole.is_stored(ids) else self.documents

    def _document_reader(self, base: BaseModel, store: DocumentStore | None) -> DocumentReader:
        kind = DocumentReader
        if self.cluster is not None:
            from focusdoc.cluster.reading import SpreadReader

            kind = partial(SpreadReader, cluster=self.cluster)  # type: ignore[assignment]
        return kind(
            base,
            self.chunk_size,
            self.kernel,
            store=store,
            batch=self.config.read_batch,
            memory_dtype=self.config.memory_dtype,
            # The tail of a typical question and answer.
            tail_tokens=self.own_way.num_tail_tokens(QUESTION_TOKENS, GenerationConfig.max_new_tokens),
        )

    def _read_ids(self, ids: Sequence[int]) -> tuple[MemoryBlock, ...]:
        """The memory of bare token ids; it is not stored."""
        return self._document_reader(self.documents.base, None).read(ids)[0]

    @property
    def maker(self) -> str:
        """Identifies everything that determines a memory: weights, dtype, number of layers and chunk size."""
        return self.documents.maker

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

    def _way(self, request: Request) -> Way:
        """The way to answer a request, after checking the request with it."""
        way = choose_way(request, self.own_way, self.reader, lambda: self.finder)
        way.check(request)
        if self.cluster is None:
            return way
        from focusdoc.cluster.spread import Counted

        return Counted(way, self.cluster)

    def _request(self, memory: Memories | None, question: str, options: Options) -> Request:
        """The request for a question; `memory` is None for documents that are not read yet."""
        memories = () if memory is None else self._checked_memories(memory)
        return Request.from_question(self.base, self.config, memories, question, options)

    def _checked_memories(self, memory: Memories) -> list[DocumentMemory]:
        """One or more memories as a list, checked to be made by this engine."""
        memories = list(memory) if isinstance(memory, Iterable) else [memory]
        if not memories or not all(isinstance(one, DocumentMemory) for one in memories):
            raise ConfigError("There is no memory to ask; pass what engine.read returned, one memory or several.")
        # A memory with all layers also serves a look, which needs the lower ones.
        check_maker(memories, self.maker, self._full_documents.maker)
        return memories

    def _tokenized(self, document: Document) -> TokenizedText:
        """The tokens of a document, with a BOS if the mode needs one."""
        with self.base.tokenizer_lock:
            tokenized = tokenize(tokenizer_of(self.base), document.text)
        if self.config.uses_bos:  # as the authors' tokenizer does (paper_mode section 1.4)
            tokenized = tokenized.with_bos(bos_token(self.base, self.config))
        return tokenized
