"""The engine: read a document once, ask it many questions."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from focusdoc.cluster import ray_holders
from focusdoc.cluster.holder import HolderSettings
from focusdoc.cluster.spread import Counted, answer_at_once
from focusdoc.config import FocusConfig, GenerationConfig, at_least
from focusdoc.decoding.answer import Answer, Generation, TextPiece
from focusdoc.decoding.answering import Way, answer_many
from focusdoc.decoding.generation import TokenLoop, complete
from focusdoc.decoding.prompt import Options, RenderQuoted, Request, flat_ids, tokenize_document
from focusdoc.documents import Document, cut_chunks, load
from focusdoc.engine.parts import EngineParts
from focusdoc.errors import ConfigError
from focusdoc.memory.chunk_memory import DocumentMemory, Memories, MemoryBlock, checked_memories
from focusdoc.memory.plan import MemoryPlan
from focusdoc.memory.reading import Progress
from focusdoc.memory.store import DocumentStore
from focusdoc.modeling.adapter_files import open_adapter
from focusdoc.modeling.base import load_base
from focusdoc.readers import Reader, open_reader
from focusdoc.readers.finding import Found
from focusdoc.readers.reader import Messages
from focusdoc.readers.ways import choose_way, start_generation
from focusdoc.terminal import progress_bar


class FocusEngine(EngineParts):
    """Answers questions over documents of any length with a frozen model and its candidate projections.

    Build it with `from_pretrained`. It keeps no state between calls but its parts (`EngineParts`); memories belong to
    the caller.
    """

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
            tokenizer, device, dtype: see `focusdoc.modeling.base.load_base`.
            adapter: an adapter folder, a safetensors file with the authors' ``beacon_*`` names, ``"auto"`` for the
                adapter shipped for this model, or None.
            config: settings; None for the mode the adapter was trained in.
            attention: ``"auto"``, ``"sdpa"``, ``"flash"`` or ``"naive"``; see `focusdoc.attention.attention_kernel`.
            store: where memories are kept on disk: ``"auto"`` for the user's cache, a folder, or None for nowhere.
            reader: a larger model that writes the answers from passages found by `model`: anything `model` may be,
                the address of an OpenAI-compatible endpoint (``"http://localhost:11434/v1"``; its key in
                ``FOCUSDOC_READER_KEY``), or a `Reader`; "auto" for the catalogue's, if it is installed and fits
                (``FOCUSDOC_READER`` overrides it); None if `model` writes the answers itself.
            reader_model: the model name at the endpoint.
            cluster: where the chunks are kept: a number of processes on this machine, ``"auto"`` or the address of a
                Ray cluster (docs/cluster.md); None for this process.

        Raises:
            ModelNotFoundError, UnsupportedModelError, AdapterError, ConfigError, ClusterError: the model, the adapter,
                a setting or the cluster cannot be used.
        """
        base = load_base(model, tokenizer=tokenizer, device=device, dtype=dtype)
        opened = open_reader(reader, reader_model=reader_model, device=device, dtype=dtype)
        engine = cls(base, open_adapter(adapter, base, model), config, attention, store, opened)
        if cluster is not None:
            settings = HolderSettings(
                model=model,
                adapter=engine.adapter,
                fingerprint=base.fingerprint,
                device=device,
                dtype=base.dtype,
                attention=attention,
                store=store,
            )
            engine.cluster = ray_holders.open_cluster(cluster, settings)
        return engine

    def plan(self, document: Document | str | os.PathLike[str] | bytes) -> MemoryPlan:
        """The bytes and seconds that reading a document would take, and where its memory would be; reads nothing.

        The plan's `rung` is "none" where `read` would raise MemoryShortageError.

        Raises:
            DocumentError: the document cannot be loaded or has no text. ConfigError: the model has no tokenizer.
        """
        document = document if isinstance(document, Document) else load(document)
        ids = tokenize_document(self.base, self.config, document).token_ids
        return self.documents.reader_for(ids).plan(ids)

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
        document = document if isinstance(document, Document) else load(document)
        _ = self.documents  # finding a new model's retrieval heads shows its own progress bar, so do it first
        bar = progress_bar(f"Reading {document.name}", "tokens") if progress is None else nullcontext(progress)
        with bar as show:
            tokenized = tokenize_document(self.base, self.config, document)
            chunks = tuple(cut_chunks(tokenized, self.chunk_size, document))
            ids = tuple(tokenized.token_ids)
            reader = self.documents.reader_for(ids)
            blocks, encoded = reader.read(ids, progress=show, document=document.name, on_plan=on_plan)
        return DocumentMemory(ids, chunks, blocks, reader.maker, document, tokenized, encoded)

    def forget(self, document: Document | DocumentMemory) -> None:
        """Remove a document from the store; its memory stays usable."""
        tokens = tokenize_document(self.base, self.config, document) if isinstance(document, Document) else document
        for reader in self.documents.readers:
            reader.forget(tokens.token_ids)

    def check_question(self, question: str, **options: Unpack[Options]) -> None:
        """Raise what `ask` would raise for this question, without reading a document first."""
        self._prepared(self._request(None, question, options))

    def check_prompt(self, prompt_ids: Sequence[int], said: Messages | None = None, **options: Unpack[Options]) -> None:
        """Raise what `stream_prompt` would raise for this prompt, without reading a document first."""
        self._prepared(Request.from_ids(self.base, self.config, (), prompt_ids, options, messages=said or ()))

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
        way = self._prepared(request)
        return way.answer(request)

    def ask_many(
        self, memory: Memories, questions: Sequence[str], *, batch: int = 8, **options: Unpack[Options]
    ) -> list[Answer]:
        """Answer several questions over one or more memories, in order; each answer is the one `ask` would return.

        A batch of questions is decoded together, so that each step reads weights and chunks once for all of them.

        Args:
            batch: questions per batch, at least 1. Each needs KV for its prompt and answer behind every chunk, so
                batches are smaller when memory is short.
            options: see `Options`.

        Raises:
            ConfigError: `batch` is below 1, or there is no question. Otherwise as `ask`, before any computation.
        """
        if isinstance(questions, str) or not questions:
            raise ConfigError(f"questions is {questions!r}; give a list with at least one question.")
        at_least("batch", batch, 1)
        requests = [self._request(memory, question, options) for question in questions]
        ways = [self._prepared(request) for request in requests]
        answer = answer_many if self.cluster is None else answer_at_once
        return answer(ways, requests, batch)

    def stream(self, memory: Memories, question: str, **options: Unpack[Options]) -> Generator[TextPiece, None, None]:
        """Like `ask`, but yields the text as it is generated; the last piece's ``.answer`` is the complete answer.

        Errors in the arguments are raised by this call, not by the first ``next``.
        """
        request = self._request(memory, question, options)
        way = self._prepared(request)
        return way.stream(request)

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
        fields = {"messages": said or (), "quoted": quoted, "has_documents": memory is not None}
        request = Request.from_ids(self.base, self.config, self._checked(memory), prompt_ids, options, **fields)
        way = self._prepared(request)
        return way.stream(request)

    def find(self, memory: Memories, question: str) -> Found:
        """Score all windows of the memories' documents for a question; writes no answer.

        Raises:
            ConfigError: a memory was made from bare token ids. Otherwise as `ask`.
        """
        request = self._request(memory, question, {"max_new_tokens": 1})
        self.finder.way.check(request)
        return self.finder.find(request, question)

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
        settings, tokenizer = GenerationConfig(**generation), self.base.tokenizer
        if settings.stop and tokenizer is None:
            raise ConfigError("Stop strings need a tokenizer, and this model has none; use max_new_tokens instead.")
        ids = flat_ids(input_ids, self.base.config.vocab_size)
        started_at = time.perf_counter()
        decoder, logits, usage = start_generation(self.own_way, ids, settings, self._read_ids)
        loop = TokenLoop(decoder, logits, settings, history=ids, eos_token_ids=self.base.eos_token_ids, cancel=cancel)
        return complete(loop, settings, tokenizer, started_at=started_at, usage=usage, keep_logits=return_logits)

    def _request(self, memory: Memories | None, question: str, options: Options) -> Request:
        """The request for a question; `memory` is None for documents that are not read yet."""
        return Request.from_question(self.base, self.config, self._checked(memory), question, options)

    def _prepared(self, request: Request) -> Way:
        """The way to answer a request, which it has checked."""
        way = choose_way(request, self.own_way, self.reader, lambda: self.finder)
        way.check(request)
        return way if self.cluster is None else Counted(way, self.cluster)

    def _checked(self, memory: Memories | None) -> list[DocumentMemory]:
        """One or more memories as a list, checked to be of this engine; none for documents that are not read yet."""
        return [] if memory is None else checked_memories(memory, [one.maker for one in self.documents.readers])

    def _read_ids(self, ids: Sequence[int]) -> tuple[MemoryBlock, ...]:
        """The memory of bare token ids; it is not stored."""
        return self.documents.without_store().read(ids)[0]
