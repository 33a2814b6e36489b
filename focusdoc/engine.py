"""The engine: read a document once, ask it many questions."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from focusdoc.attention import attention_kernel
from focusdoc.config import FocusConfig, GenerationConfig
from focusdoc.decoding.answer import Answer, Generation, TextPiece, Usage
from focusdoc.decoding.answering import stream_answer
from focusdoc.decoding.direct import DirectDecoder
from focusdoc.decoding.generation import TokenLoop, complete
from focusdoc.decoding.limits import check_room
from focusdoc.decoding.local_context import bos_token, flat_ids, local_and_prompt
from focusdoc.decoding.parallel import ParallelDecoder
from focusdoc.decoding.plain import PlainDecoder
from focusdoc.decoding.prompt import PromptStyle, question_prompt
from focusdoc.documents import Document, cut_chunks, load, tokenize
from focusdoc.errors import AdapterError, ConfigError, PromptTooLongError
from focusdoc.memory.chunk_memory import DocumentMemory, MemoryBlock, check_maker
from focusdoc.memory.library import open_store, read_through
from focusdoc.memory.reading import Progress
from focusdoc.memory.store import DocumentStore
from focusdoc.modeling.adapter import Adapter, check_adapter, untrained_adapter
from focusdoc.modeling.adapter_files import load_adapter, shipped_adapter_path
from focusdoc.modeling.base import BaseModel, CandidateWeights, load_base
from focusdoc.modeling.candidate import LayerWeights
from focusdoc.terminal import reading_progress

#: Room kept behind a chunk for the answer, in tokens, where the chunk size follows from the model's context.
ANSWER_ROOM = 512

_log = logging.getLogger(__name__)


class FocusEngine:
    """Answers questions over documents of any length with a frozen model and its candidate projections.

    Build it with `from_pretrained`. It holds no state between calls besides weights: memories are the caller's.

    Attributes:
        base: the frozen model.
        adapter: its candidate projections, or None.
        config: the settings in force.
        kernel: the implementation of attention.
        store: where memories are kept on disk, or None.
    """

    def __init__(
        self,
        base: BaseModel,
        adapter: Adapter | None,
        config: FocusConfig | None = None,
        attention: str = "auto",
        store: DocumentStore | str | Path | None = None,
    ) -> None:
        self.base = base
        self.store = open_store(store)
        if config is None:
            refreshed = adapter is not None and adapter.config.local_attention == "refresh"
            config = FocusConfig.paper() if refreshed else FocusConfig()
        if adapter is not None:
            check_adapter(adapter, base.model, model_fingerprint=base.fingerprint)
        elif config.allow_untrained:
            adapter = untrained_adapter(base.model)
        self.adapter = adapter
        self.config = config.with_defaults(
            chunk_size=self._default_chunk_size(adapter, config),
            candidate_positions=adapter.config.candidate_positions if adapter is not None else "sequential",
            condensing="candidates" if adapter is not None or config.local_attention == "refresh" else "none",
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
        self.kernel = attention_kernel(attention)
        self._weights = _on(base, adapter) if adapter is not None else None

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
    ) -> FocusEngine:
        """Load a model and its adapter.

        Args:
            model: a folder, a hub name, a transformers model object, or None for the embedded default.
            tokenizer: the model's tokenizer, where `model` is an object; None takes the one beside the weights.
            adapter: a folder of ours, a safetensors file with the authors' ``beacon_*`` names, ``"auto"`` for the
                one shipped for this base model, or None.
            config: settings; None takes the mode the adapter was trained for.
            device, dtype: see `focusdoc.modeling.base.load_base`.
            attention: ``"auto"``, ``"sdpa"`` or ``"naive"``.
            store: where memories are kept, so that no document is read twice: ``"auto"`` for the user's cache, a
                folder, or None.

        Raises:
            ModelNotFoundError, UnsupportedModelError, AdapterError, ConfigError: each names what is wrong.
        """
        base = load_base(model, tokenizer=tokenizer, device=device, dtype=dtype)
        path = shipped_adapter_path(base.fingerprint) if adapter == "auto" else adapter
        loaded = load_adapter(path) if path is not None else None
        return cls(base, loaded, config, attention, store)

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
            AdapterError: candidates are asked for, and there is no adapter.
        """
        if not self.config.direct:
            self.require_adapter()

    def read(
        self, document: Document | str | os.PathLike[str] | bytes, *, progress: Progress | None = None
    ) -> DocumentMemory:
        """Read a document into a memory that any number of questions can be asked of.

        What the store knows of it is opened and not read again; what is read is stored.

        Args:
            document: a `Document`, or anything `focusdoc.load` takes.
            progress: called with (tokens read, tokens in all); None for a progress bar on standard error, if that
                is a terminal.

        Raises:
            DocumentError: it cannot be loaded or holds no text. ConfigError: the model has no tokenizer.
        """
        if not isinstance(document, Document):
            document = load(document)
        with reading_progress(document.name) if progress is None else nullcontext(progress) as show:
            with self.base.tokenizer_lock:
                tokenized = tokenize(self._tokenizer, document.text)
            if self.config.uses_bos:  # the authors' tokenizer puts it in front of the text (paper_mode section 1.4)
                tokenized = tokenized.with_bos(bos_token(self.base, self.config))
            chunks = tuple(cut_chunks(tokenized, self.chunk_size, document))
            blocks, encoded = self._read_tokens(tokenized.token_ids, self.store, show, document.name)
        return DocumentMemory(tuple(tokenized.token_ids), chunks, blocks, self.maker, document, tokenized, encoded)

    def ask(
        self,
        memory: DocumentMemory | Sequence[DocumentMemory],
        question: str,
        *,
        style: PromptStyle = "auto",
        max_sources: int = 3,
        cancel: threading.Event | None = None,
        **generation: Any,
    ) -> Answer:
        """Answer `question` from one memory or several.

        Args:
            style: the prompt format, see `focusdoc.decoding.prompt.question_prompt`.
            max_sources: at most this many sources, 0 or more; each takes a pass over one chunk.
            cancel: set it from another thread to end the answer after the current token.
            generation: fields of `GenerationConfig`, such as ``max_new_tokens=64`` or ``temperature=0.7``.

        Raises:
            PromptTooLongError: the question does not fit into the local window. AdapterError: there is no adapter.
            MemoryMismatchError: a memory is another engine's. ConfigError: a generation setting is out of range.
        """
        answer: Answer | None = None
        for piece in self.stream(memory, question, style=style, max_sources=max_sources, cancel=cancel, **generation):
            answer = piece.answer
        if answer is None:  # pragma: no cover - the last piece always carries the answer
            raise RuntimeError("the stream ended without an answer")
        return answer

    def stream(
        self,
        memory: DocumentMemory | Sequence[DocumentMemory],
        question: str,
        *,
        style: PromptStyle = "auto",
        max_sources: int = 3,
        cancel: threading.Event | None = None,
        **generation: Any,
    ) -> Generator[TextPiece, None, None]:
        """Like `ask`, but yields the text as it comes; the last piece's ``.answer`` is the whole answer.

        Everything that can be wrong with the call is raised here, before the first piece is asked for.
        """
        memories = self._own(memory)
        settings, local_ids, prompt_ids = self._prepare(question, style, generation)
        return self._stream(memories, local_ids, prompt_ids, settings, max_sources, cancel)

    def stream_prompt(
        self,
        memory: DocumentMemory | Sequence[DocumentMemory],
        prompt_ids: Sequence[int],
        *,
        max_sources: int = 3,
        cancel: threading.Event | None = None,
        **generation: Any,
    ) -> Generator[TextPiece, None, None]:
        """Like `stream`, for a local context that the caller rendered: token ids, up to where the answer begins.

        Raises:
            PromptTooLongError: they do not fit into the local window. Else as `ask`, all before the first piece.
        """
        memories = self._own(memory)
        settings = GenerationConfig(**generation)
        ids = flat_ids(prompt_ids, self.base.config.vocab_size)
        if len(ids) > self.config.local_window:
            raise PromptTooLongError(
                f"The prompt takes {len(ids)} tokens beside its documents, more than the local window of "
                f"{self.config.local_window}; shorten it, or raise local_window."
            )
        return self._stream(memories, *local_and_prompt(self.base, self.config, ids), settings, max_sources, cancel)

    def _own(self, memory: DocumentMemory | Sequence[DocumentMemory]) -> list[DocumentMemory]:
        """One memory or several as a list of this engine's own."""
        memories = list(memory) if isinstance(memory, Iterable) else [memory]
        if not memories or not all(isinstance(one, DocumentMemory) for one in memories):
            raise ConfigError("There is no memory to ask; pass what engine.read gave, one memory or a list of them.")
        check_maker(memories, self.maker)
        return memories

    def _stream(
        self,
        memories: list[DocumentMemory],
        local_ids: list[int],
        prompt_ids: list[int],
        settings: GenerationConfig,
        max_sources: int,
        cancel: threading.Event | None,
    ) -> Generator[TextPiece, None, None]:
        self._check_room([one.num_tokens for one in memories], len(local_ids), settings)
        decoder = self._decoder([block for one in memories for block in one.blocks], settings)
        return stream_answer(
            decoder,
            memories,
            local_ids,
            prompt_ids,
            settings,
            self._tokenizer,
            max_sources=max_sources,
            cancel=cancel,
        )

    def check_question(self, question: str, *, style: PromptStyle = "auto", **generation: Any) -> None:
        """Raise what `ask` would raise for this question, so that no document need be read to find out.

        Raises:
            PromptTooLongError, AdapterError, ConfigError: as `ask`.
        """
        settings, local_ids, _ = self._prepare(question, style, generation)
        self._check_room([self.chunk_size], len(local_ids), settings)

    def _prepare(
        self, question: str, style: PromptStyle, generation: dict[str, Any]
    ) -> tuple[GenerationConfig, list[int], list[int]]:
        """The settings, the local context and the dynamic prompt of a question."""
        settings = GenerationConfig(**generation)
        self.check_ready()
        with self.base.tokenizer_lock:
            question_ids = question_prompt(self._tokenizer, question, style)
        if len(question_ids) > self.config.local_window:
            raise PromptTooLongError(
                f"The question takes {len(question_ids)} tokens with its template, more than the local window of "
                f"{self.config.local_window}; shorten it, or raise local_window."
            )
        return settings, *local_and_prompt(self.base, self.config, question_ids)

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
        split = len(ids) - self.config.local_window
        decoder: PlainDecoder | ParallelDecoder | DirectDecoder
        if len(ids) < self.config.threshold or split <= 0:
            self._check_room([], len(ids), settings)
            decoder = PlainDecoder(self.base)
            logits = decoder.start(ids)
            usage = Usage(0, 0, len(ids), 0)
        else:
            self.check_ready()
            local_ids, prompt_ids = local_and_prompt(self.base, self.config, ids[split:])
            self._check_room([split], len(local_ids), settings)
            decoder = self._decoder(self._read_tokens(ids[:split])[0], settings)
            logits = decoder.start(local_ids, prompt_ids)
            usage = Usage(split, decoder.num_chunks, len(local_ids), 0, split)
        loop = TokenLoop(decoder, logits, settings, history=ids, eos_token_ids=self.base.eos_token_ids, cancel=cancel)
        return complete(loop, settings, self.base.tokenizer, begun=begun, usage=usage, keep_logits=return_logits)

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
        if self.config.direct:
            return DirectDecoder(
                self.base,
                blocks,
                kernel=self.kernel,
                start=self.config.anchor + self.chunk_size,
                max_new_tokens=settings.max_new_tokens,
            )
        return ParallelDecoder(
            self.base,
            self._packed_weights,
            blocks,
            kernel=self.kernel,
            config=self.config,
            max_new_tokens=settings.max_new_tokens,
        )

    def _read_tokens(
        self, ids: Sequence[int], store: DocumentStore | None = None, progress: Progress | None = None, name: str = ""
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
        )

    def _default_chunk_size(self, adapter: Adapter | None, config: FocusConfig) -> int:
        if adapter is not None and adapter.config.chunk_size is not None:
            return adapter.config.chunk_size
        room = self.base.context_length - config.prompt_window - ANSWER_ROOM
        return max(1, room if room > 0 else self.base.context_length // 2)

    @cached_property
    def _packed_weights(self) -> CandidateWeights:
        return self.base.packed(self.require_adapter())

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
