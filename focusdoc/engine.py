"""The engine: read a document once, ask it many questions."""

from __future__ import annotations

import copy
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, Self, Unpack

import torch
from torch import Tensor

from focusdoc.attention import attention_kernel
from focusdoc.config import FocusConfig, GenerationConfig, at_least
from focusdoc.decoding.answer import Answer, Generation, TextPiece
from focusdoc.decoding.answering import OwnWay, Way
from focusdoc.decoding.candidates import Projections
from focusdoc.decoding.generation import TokenLoop, complete
from focusdoc.decoding.look import layers_of
from focusdoc.decoding.prompt import Asked, Options, RenderQuoted, bos_token, flat_ids, tokenizer_of
from focusdoc.documents import Document, cut_chunks, load, tokenize
from focusdoc.documents.chunking import TokenizedText
from focusdoc.errors import AdapterError, ConfigError
from focusdoc.memory.chunk_memory import DocumentMemory, MemoryBlock, check_maker
from focusdoc.memory.library import DocumentReader, open_store
from focusdoc.memory.plan import QUESTION_TOKENS, MemoryPlan
from focusdoc.memory.reading import Progress
from focusdoc.memory.store import DocumentStore
from focusdoc.modeling.adapter import Adapter, check_adapter, untrained_adapter
from focusdoc.modeling.adapter_files import load_adapter, shipped_adapter_path
from focusdoc.modeling.base import BaseModel, load_base
from focusdoc.modeling.candidate import LayerWeights
from focusdoc.modeling.catalogue import DEFAULT_MODEL, known_model
from focusdoc.readers import Reader, open_reader
from focusdoc.readers.finding import Finder, Found
from focusdoc.readers.reader import Messages
from focusdoc.readers.ways import own_way, settled, start_on, way_of, writer_of
from focusdoc.storage import cache_path
from focusdoc.terminal import progress_bar
from focusdoc.training.calibration import Heads, retrieval_heads

Memories = DocumentMemory | Sequence[DocumentMemory]


class FocusEngine:
    """Answers questions over documents of any length with a frozen model and its candidate projections.

    Build it with `from_pretrained`. It holds no state between calls besides weights: memories are the caller's.

    Attributes:
        base: the frozen model.
        adapter: its candidate projections, or None.
        config: the settings in force.
        kernel: the implementation of attention.
        store: where memories are kept on disk, or None.
        reader: writes the answers from passages that the base model finds; None for the base model itself.
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
        if adapter is not None:
            check_adapter(adapter, base.model, model_fingerprint=base.fingerprint)
        self.base = base
        self.reader = reader
        self.store = open_store(store)
        self.config = settled(config, base, adapter)
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
    ) -> FocusEngine:
        """Load a model and its adapter.

        A model object stays as it is: passes run through modules of our own over its weights. On a CPU, the process
        keeps up to 256 MiB of memory that it frees (glibc), and torch no more threads than a container's quota allows;
        the environment variable ``FOCUSDOC_PROCESS=keep`` leaves both as they are.

        Args:
            model: a name of the catalogue (``focusdoc models list``), a folder, a hub name, a transformers model
                object, or None for the embedded default. One that was loaded before a fork is refused in the child.
            tokenizer: the model's tokenizer, where `model` is an object; None takes the one beside the weights.
            adapter: a folder of ours, a safetensors file with the authors' ``beacon_*`` names, ``"auto"`` for the
                one shipped for this base model, or None.
            config: settings; None takes the mode the adapter was trained for.
            device, dtype: see `focusdoc.modeling.base.load_base`.
            attention: ``"auto"``, ``"sdpa"``, ``"flash"`` or ``"naive"``; see `focusdoc.attention.attention_kernel`.
            store: where memories are kept, so that no document is read twice: ``"auto"`` for the user's cache, a
                folder, or None.
            reader: a larger model that writes the answers from passages which this one finds: what `model` may be,
                the address of an OpenAI-compatible endpoint (``"http://localhost:11434/v1"``; its key in
                ``FOCUSDOC_READER_KEY``), or a `Reader`; "auto" for the catalogue's, where it is installed and
                fits (``FOCUSDOC_READER`` names another); None for this one.
            reader_model: what an endpoint calls its model.

        Raises:
            ModelNotFoundError, UnsupportedModelError, AdapterError, ConfigError: each names what is wrong.
        """
        base = load_base(model, tokenizer=tokenizer, device=device, dtype=dtype)
        path = shipped_adapter_path(base.fingerprint) if adapter == "auto" else adapter
        known = known_model(DEFAULT_MODEL if model is None else model)
        if adapter == "auto" and path is None and known is not None and known.adapter is not None:
            raise AdapterError(
                f"The model {known.name} in {cache_path()} is not the one that its adapter was trained for "
                f"(fingerprint {base.fingerprint[:12]}); remove it, so that it is converted anew, and "
                "take the versions of constraints.txt. adapter=None asks it without an adapter, by a look."
            )
        loaded = load_adapter(path) if path is not None else None
        writes = open_reader(reader, reader_model=reader_model, device=device, dtype=dtype)
        return cls(base, loaded, config, attention, store, writes)

    def read(
        self,
        document: Document | str | os.PathLike[str] | bytes,
        *,
        progress: Progress | None = None,
        on_plan: Callable[[MemoryPlan], None] | None = None,
    ) -> DocumentMemory:
        """Read a document into a memory that any number of questions can be asked of.

        What the store knows of it is opened and not read again; what is read is stored.

        Args:
            document: a `Document`, or anything `focusdoc.load` takes.
            progress: called with (tokens read, tokens in all); None for a progress bar on standard error, if that
                is a terminal.
            on_plan: given what `plan` tells, before anything is read; None for the log, as a warning where memory is
                too short for the model's own dtype.

        Raises:
            DocumentError: it cannot be loaded or holds no text. ConfigError: the model has no tokenizer.
            MemoryShortageError: its memory fits neither into what is free nor on the disk.
        """
        if not isinstance(document, Document):
            document = load(document)
        _ = self.documents  # a model that is new shows a bar of its own first
        bar = progress_bar(f"Reading {document.name}", "tokens") if progress is None else nullcontext(progress)
        with bar as show:
            tokenized = self._tokenized(document)
            chunks = tuple(cut_chunks(tokenized, self.chunk_size, document))
            reader = self._documents_for(tokenized.token_ids)
            blocks, encoded = reader.read(tokenized.token_ids, progress=show, document=document.name, on_plan=on_plan)
        return DocumentMemory(tuple(tokenized.token_ids), chunks, blocks, reader.maker, document, tokenized, encoded)

    def forget(self, memory: DocumentMemory) -> None:
        """Remove what the store keeps of a document; the memory itself goes on serving."""
        for reader in {self.documents, self._whole_documents}:
            reader.forget(memory.token_ids)

    def plan(self, document: Document | str | os.PathLike[str] | bytes) -> MemoryPlan:
        """What reading a document will take in bytes and seconds, and where its memory will be; reads nothing.

        Its `rung` is "none" where `read` would raise MemoryShortageError.

        Raises:
            DocumentError: it cannot be loaded or holds no text. ConfigError: the model has no tokenizer.
        """
        document = document if isinstance(document, Document) else load(document)
        ids = self._tokenized(document).token_ids
        return self._documents_for(ids).plan(ids)

    def ask(self, memory: Memories, question: str, **options: Unpack[Options]) -> Answer:
        """Answer `question` from one memory or several.

        Args:
            options: see `Options`, such as ``max_new_tokens=64`` or ``temperature=0.7``.

        Raises:
            PromptTooLongError: the question does not fit into the local window. AdapterError: there is no adapter.
            MemoryMismatchError: a memory is another engine's. ConfigError: a setting is out of range.
            ReaderError: the reader cannot be reached or breaks off; its ``.sources`` has what was found.
            MemoryShortageError: what runs behind every chunk does not fit into free memory; while the answer is written
                as well, since it grows.
        """
        asked = self._question(memory, question, options)
        return self._way(asked).answer(asked)

    def ask_many(
        self, memory: Memories, questions: Sequence[str], *, batch: int = 8, **options: Unpack[Options]
    ) -> list[Answer]:
        """Answer several questions over one memory or several; each answer is the one `ask` would give.

        Questions advance side by side, so that weights and chunks are read once for all of a batch at every step.

        Args:
            questions: one after another; their answers come in this order.
            batch: questions that advance together, at least 1; each needs room for its own prompt and answer behind
                every chunk, so fewer do where memory is short.
            options: see `Options`.

        Raises:
            ConfigError: `batch` is below 1, or no question is given. Else as `ask`, before anything is computed.
        """
        if isinstance(questions, str) or not questions:
            raise ConfigError(f"questions is {questions!r}; give a list with at least one question.")
        at_least("batch", batch, 1)
        asked = [self._question(memory, each, options) for each in questions]
        ways = [self._way(each) for each in asked]
        if len({type(way) for way in ways}) > 1:
            return [way.answer(each) for way, each in zip(ways, asked, strict=True)]
        return ways[0].answer_many(asked, batch)

    def stream(self, memory: Memories, question: str, **options: Unpack[Options]) -> Generator[TextPiece, None, None]:
        """Like `ask`, but yields the text as it comes; the last piece's ``.answer`` is the whole answer.

        Everything that can be wrong with the call is raised here, before the first piece is asked for.
        """
        asked = self._question(memory, question, options)
        return self._way(asked).stream(asked)

    def stream_prompt(
        self,
        memory: Memories,
        prompt_ids: Sequence[int],
        *,
        quoted: RenderQuoted | None = None,
        said: Messages | None = None,
        **options: Unpack[Options],
    ) -> Generator[TextPiece, None, None]:
        """Like `stream`, for a local context that the caller rendered: token ids, up to where the answer begins.

        Args:
            quoted: renders it again with a text of passages in it; None to quote none.
            said: the conversation that they render, as (role, content), which ends with the question; a reader is
                given it, since it cannot read another model's tokens. None has the base model write in any case.

        Raises:
            PromptTooLongError: they do not fit into the local window. Else as `ask`, all before the first piece.
        """
        ids = flat_ids(prompt_ids, self.base.config.vocab_size)
        more = {"said": said or (), "quoted": quoted}
        asked = Asked.rendered(self.base, self.config, self._own(memory), ids, options, **more)
        return self._way(asked).stream(asked)

    def stream_alone(
        self, prompt_ids: Sequence[int], *, said: Messages | None = None, **options: Unpack[Options]
    ) -> Generator[TextPiece, None, None]:
        """Like `stream_prompt` without documents: the model that writes answers from its own window.

        Raises:
            ConfigError, PromptTooLongError: before the first piece: the settings are wrong, or the prompt does not fit.
        """
        more = {"said": said or (), "has_documents": False}
        asked = Asked.rendered(self.base, self.config, (), list(prompt_ids), options, **more)
        return self._way(asked).stream(asked)

    def find(self, memory: Memories, question: str) -> Found:
        """What a question makes of all windows of one memory's document or several's; nothing is written.

        Raises:
            ConfigError: a memory was made from bare token ids. Else as `ask`.
        """
        asked = self._question(memory, question, {"max_new_tokens": 1})
        self.own_way.check(asked)
        return self.finder.find(self.own_way.decoder(asked.blocks, 1), asked, question)

    def check_question(self, question: str, **options: Unpack[Options]) -> None:
        """Raise what `ask` would raise for this question, so that no document need be read to find out.

        Raises:
            PromptTooLongError, AdapterError, ConfigError: as `ask`.
        """
        self._way(self._question(None, question, options))

    def check_prompt(self, prompt_ids: Sequence[int], said: Messages | None = None, **options: Unpack[Options]) -> None:
        """Like `check_question`, for a local context that the caller rendered.

        Raises:
            PromptTooLongError, AdapterError, ConfigError: as `stream_prompt`.
        """
        ids = flat_ids(prompt_ids, self.base.config.vocab_size)
        self._way(Asked.rendered(self.base, self.config, (), ids, options, said=said or ()))

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

        Split as in the paper (section 3.1): the last `local_window` tokens are the local context, what stands
        before them is cut into chunks from the left. Inputs below the threshold take the plain path.

        Args:
            input_ids: a list, or a tensor [n] or [1, n].
            return_logits: keep the logits each token was chosen from.
            generation: fields of `GenerationConfig`, such as ``max_new_tokens=6``.

        Raises:
            ConfigError: the ids are not whole numbers of the vocabulary, or a generation setting is out of range.
            PromptTooLongError: input and new tokens take more positions than the model has.
            AdapterError: the input is cut into chunks, and there is no adapter.
        """
        settings = GenerationConfig(**generation)
        if settings.stop and self.base.tokenizer is None:
            raise ConfigError("Stop strings need a tokenizer, and this model has none; use max_new_tokens instead.")
        ids = flat_ids(input_ids, self.base.config.vocab_size)
        begun = time.perf_counter()
        decoder, logits, usage = start_on(self.own_way, ids, settings, self._read_ids)
        loop = TokenLoop(decoder, logits, settings, history=ids, eos_token_ids=self.base.eos_token_ids, cancel=cancel)
        return complete(loop, settings, self.base.tokenizer, begun=begun, usage=usage, keep_logits=return_logits)

    def with_reader(self, reader: Reader | None) -> Self:
        """The same engine, with the same weights, whose answers another reader writes (None for the base model)."""
        other = copy.copy(self)
        other.reader = reader
        return other

    @property
    def writer(self) -> BaseModel:
        """The model whose tokens an answer is made of; see `focusdoc.readers.ways.writer_of`."""
        return writer_of(self.base, self.reader)

    @property
    def own_way(self) -> OwnWay[Any]:
        """How the base model answers by itself."""
        return own_way(self.base, self.config, self.kernel, self._projections, lambda: self.heads)

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
        return retrieval_heads(self.base, self.kernel) if self.config.looks and not heads else heads

    @cached_property
    def finder(self) -> Finder:
        """Ranks the windows of documents, for a reader."""
        return Finder(self.heads)

    @cached_property
    def documents(self) -> DocumentReader:
        """Reads documents: with the base model, of which a look needs the layers up to its highest head."""
        return self._reader_of(self.base.upto(layers_of(self.heads)) if self.config.looks else self.base, self.store)

    @cached_property
    def _whole_documents(self) -> DocumentReader:
        """As `documents`, but with all layers of the base model."""
        return self._reader_of(self.base, self.store) if self.documents.base.is_part else self.documents

    def _documents_for(self, ids: Sequence[int]) -> DocumentReader:
        """What reads a document: where the store has all layers of it already, they serve a look too."""
        whole = self._whole_documents
        return whole if whole is not self.documents and whole.knows(ids) else self.documents

    def _reader_of(self, base: BaseModel, store: DocumentStore | None) -> DocumentReader:
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

    def _read_ids(self, ids: Sequence[int]) -> tuple[MemoryBlock, ...]:
        """The memory of bare token ids, which is not stored."""
        return self._reader_of(self.documents.base, None).read(ids)[0]

    @property
    def maker(self) -> str:
        """Names everything that shapes a memory: the weights, their dtype, the layers kept, and the chunk size."""
        return self.documents.maker

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

    def _way(self, asked: Asked) -> Way:
        """The way that a call is answered, which finds nothing wrong with it."""
        way = way_of(asked, self.own_way, self.reader, lambda: self.finder)
        way.check(asked)
        return way

    def _question(self, memory: Memories | None, question: str, options: Options) -> Asked:
        """What a question asks of memories; None for those of documents that are not read yet."""
        memories = () if memory is None else self._own(memory)
        return Asked.words(self.base, self.config, memories, question, options)

    def _own(self, memory: Memories) -> list[DocumentMemory]:
        """One memory or several as a list of this engine's own."""
        memories = list(memory) if isinstance(memory, Iterable) else [memory]
        if not memories or not all(isinstance(one, DocumentMemory) for one in memories):
            raise ConfigError("There is no memory to ask; pass what engine.read gave, one memory or a list of them.")
        # A memory of all layers serves a look, which needs the lower ones.
        check_maker(memories, self.maker, self._whole_documents.maker)
        return memories

    def _tokenized(self, document: Document) -> TokenizedText:
        """The tokens that are read of a document."""
        with self.base.tokenizer_lock:
            tokenized = tokenize(tokenizer_of(self.base), document.text)
        if self.config.uses_bos:  # the authors' tokenizer puts it in front of the text (paper_mode section 1.4)
            tokenized = tokenized.with_bos(bos_token(self.base, self.config))
        return tokenized
