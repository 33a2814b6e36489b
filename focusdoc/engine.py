"""The engine: read a document once, ask it many questions."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from focusdoc.config import FocusConfig, GenerationConfig, at_least
from focusdoc.decoding.answer import Answer, TextPiece
from focusdoc.decoding.answering import Asked, RenderQuoted, Way
from focusdoc.decoding.prompt import PromptStyle, bos_token, flat_ids
from focusdoc.documents import Document, cut_chunks, load, tokenize
from focusdoc.documents.chunking import TokenizedText
from focusdoc.engine_tokens import TokenEngine
from focusdoc.errors import AdapterError, ConfigError
from focusdoc.memory.chunk_memory import DocumentMemory
from focusdoc.memory.plan import MemoryPlan
from focusdoc.memory.reading import Progress
from focusdoc.memory.store import DocumentStore
from focusdoc.modeling.adapter_files import load_adapter, shipped_adapter_path
from focusdoc.modeling.base import load_base
from focusdoc.modeling.catalogue import DEFAULT_MODEL, known_model
from focusdoc.readers import Reader, open_reader
from focusdoc.readers.finding import Found
from focusdoc.readers.reader import Messages
from focusdoc.storage import cache_path
from focusdoc.terminal import progress_bar


class FocusEngine(TokenEngine):
    """Answers questions over documents of any length with a frozen model and its candidate projections.

    Build it with `from_pretrained`. It holds no state between calls besides weights: memories are the caller's.

    Attributes:
        base: the frozen model.
        adapter: its candidate projections, or None.
        config: the settings in force.
        kernel: the implementation of attention.
        store: where memories are kept on disk, or None.
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
        return cls(
            base,
            loaded,
            config,
            attention,
            store,
            open_reader(reader, reader_model=reader_model, device=device, dtype=dtype),
        )

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

    def plan(self, document: Document | str | os.PathLike[str] | bytes) -> MemoryPlan:
        """What reading a document will take in bytes and seconds, and where its memory will be; reads nothing.

        Its `rung` is "none" where `read` would raise MemoryShortageError.

        Raises:
            DocumentError: it cannot be loaded or holds no text. ConfigError: the model has no tokenizer.
        """
        document = document if isinstance(document, Document) else load(document)
        ids = self._tokenized(document).token_ids
        return self._documents_for(ids).plan(ids)

    def _tokenized(self, document: Document) -> TokenizedText:
        """The tokens that are read of a document."""
        with self.base.tokenizer_lock:
            tokenized = tokenize(self._tokenizer, document.text)
        if self.config.uses_bos:  # the authors' tokenizer puts it in front of the text (paper_mode section 1.4)
            tokenized = tokenized.with_bos(bos_token(self.base, self.config))
        return tokenized

    def ask(
        self,
        memory: DocumentMemory | Sequence[DocumentMemory],
        question: str,
        *,
        style: PromptStyle = "auto",
        overview: bool | None = None,
        max_sources: int = 3,
        cancel: threading.Event | None = None,
        **generation: Any,
    ) -> Answer:
        """Answer `question` from one memory or several.

        Args:
            style: the prompt format, see `focusdoc.decoding.prompt.question_prompt`.
            overview: whether the question asks about the whole document, so that a reader gets passages of all chunks;
                None to tell it by English words, such as "summarize".
            max_sources: at most this many sources, 0 or more; each takes a pass over one chunk.
            cancel: set it from another thread to end the answer after the current token.
            generation: fields of `GenerationConfig`, such as ``max_new_tokens=64`` or ``temperature=0.7``.

        Raises:
            PromptTooLongError: the question does not fit into the local window. AdapterError: there is no adapter.
            MemoryMismatchError: a memory is another engine's. ConfigError: a generation setting is out of range.
            ReaderError: the reader cannot be reached or breaks off; its ``.sources`` has what was found.
            MemoryShortageError: what runs behind every chunk does not fit into free memory; while the answer is written
                as well, since it grows.
        """
        more = {"overview": overview, "max_sources": max_sources, "cancel": cancel}
        asked = self._question(self._own(memory), question, style, generation, **more)
        return self._checked(asked).answer(asked)

    def ask_many(
        self,
        memory: DocumentMemory | Sequence[DocumentMemory],
        questions: Sequence[str],
        *,
        style: PromptStyle = "auto",
        overview: bool | None = None,
        max_sources: int = 3,
        batch: int = 8,
        cancel: threading.Event | None = None,
        **generation: Any,
    ) -> list[Answer]:
        """Answer several questions over one memory or several; each answer is the one `ask` would give.

        Questions advance side by side, so that weights and chunks are read once for all of a batch at every step.

        Args:
            questions: one after another; their answers come in this order.
            batch: questions that advance together, at least 1; each needs room for its own prompt and answer behind
                every chunk, so fewer do where memory is short.
            style, overview, max_sources, cancel, generation: as for `ask`.

        Raises:
            ConfigError: `batch` is below 1, or no question is given. Else as `ask`, before anything is computed.
        """
        if isinstance(questions, str) or not questions:
            raise ConfigError(f"questions is {questions!r}; give a list with at least one question.")
        at_least("batch", batch, 1)
        memories = self._own(memory)
        more = {"overview": overview, "max_sources": max_sources, "cancel": cancel}
        asked = [self._question(memories, each, style, generation, **more) for each in questions]
        ways = [self._checked(each) for each in asked]
        if len({type(way) for way in ways}) > 1:
            return [way.answer(each) for way, each in zip(ways, asked, strict=True)]
        return ways[0].answer_many(asked, batch)

    def stream(
        self,
        memory: DocumentMemory | Sequence[DocumentMemory],
        question: str,
        *,
        style: PromptStyle = "auto",
        overview: bool | None = None,
        max_sources: int = 3,
        cancel: threading.Event | None = None,
        **generation: Any,
    ) -> Generator[TextPiece, None, None]:
        """Like `ask`, but yields the text as it comes; the last piece's ``.answer`` is the whole answer.

        Everything that can be wrong with the call is raised here, before the first piece is asked for.
        """
        more = {"overview": overview, "max_sources": max_sources, "cancel": cancel}
        asked = self._question(self._own(memory), question, style, generation, **more)
        return self._checked(asked).stream(asked)

    def stream_prompt(
        self,
        memory: DocumentMemory | Sequence[DocumentMemory],
        prompt_ids: Sequence[int],
        *,
        quoted: RenderQuoted | None = None,
        said: Messages | None = None,
        max_sources: int = 3,
        cancel: threading.Event | None = None,
        **generation: Any,
    ) -> Generator[TextPiece, None, None]:
        """Like `stream`, for a local context that the caller rendered: token ids, up to where the answer begins.

        Args:
            quoted: renders it again with a text of passages in it; None to quote none.
            said: the conversation that they render, as (role, content), which ends with the question; a reader is
                given it, since it cannot read another model's tokens. None has the base model write in any case.

        Raises:
            PromptTooLongError: they do not fit into the local window. Else as `ask`, all before the first piece.
        """
        memories, ids = self._own(memory), flat_ids(prompt_ids, self.base.config.vocab_size)
        more = {"said": said or (), "quoted": quoted, "max_sources": max_sources, "cancel": cancel}
        asked = self._asked(memories, ids, generation, **more)
        return self._checked(asked).stream(asked)

    def stream_alone(
        self,
        prompt_ids: Sequence[int],
        *,
        said: Messages | None = None,
        cancel: threading.Event | None = None,
        **generation: Any,
    ) -> Generator[TextPiece, None, None]:
        """Like `stream_prompt` without documents: the model that writes answers from its own window.

        Raises:
            ConfigError, PromptTooLongError: before the first piece: the settings are wrong, or the prompt does not fit.
        """
        settings = GenerationConfig(**generation)
        asked = Asked((), prompt_ids, prompt_ids, settings, self._tokenizer, said or (), cancel=cancel)
        return self._checked(asked, documents=False).stream(asked)

    def find(self, memory: DocumentMemory | Sequence[DocumentMemory], question: str) -> Found:
        """What a question makes of all windows of one memory's document or several's; nothing is written.

        Raises:
            ConfigError: a memory was made from bare token ids. Else as `ask`.
        """
        asked = self._question(self._own(memory), question, "auto", {"max_new_tokens": 1})
        self.own_way.check(asked)
        return self.finder.find(self.own_way.decoder(asked.blocks, 1), asked, question)

    def check_question(self, question: str, *, style: PromptStyle = "auto", **generation: Any) -> None:
        """Raise what `ask` would raise for this question, so that no document need be read to find out.

        Raises:
            PromptTooLongError, AdapterError, ConfigError: as `ask`.
        """
        self._checked(self._question((), question, style, generation))

    def check_prompt(self, prompt_ids: Sequence[int], said: Messages | None = None, **generation: Any) -> None:
        """Like `check_question`, for a local context that the caller rendered.

        Raises:
            PromptTooLongError, AdapterError, ConfigError: as `stream_prompt`.
        """
        ids = flat_ids(prompt_ids, self.base.config.vocab_size)
        self._checked(self._asked((), ids, generation, said=said or ()))

    def _question(
        self,
        memories: Sequence[DocumentMemory],
        question: str,
        style: PromptStyle,
        generation: dict[str, Any],
        **more: Any,
    ) -> Asked:
        self.check_ready()
        render = partial(self._rendered, question, style)
        return self._asked(memories, render(), generation, said=[("user", question)], quoted=render, **more)

    def _checked(self, asked: Asked, *, documents: bool = True) -> Way:
        """The way that a call is answered, which finds nothing wrong with it."""
        way = self._way(asked, documents=documents)
        way.check(asked)
        return way
