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

from focusdoc.config import FocusConfig, GenerationConfig
from focusdoc.decoding.answer import Answer, TextPiece
from focusdoc.decoding.answering import Asked, answer_together, stream_answer
from focusdoc.decoding.limits import questions_at_once
from focusdoc.decoding.local_context import bos_token, flat_ids
from focusdoc.decoding.prompt import PromptStyle
from focusdoc.decoding.quoting import RenderQuoted
from focusdoc.decoding.together import chunks_at_once
from focusdoc.documents import Document, cut_chunks, load, tokenize
from focusdoc.documents.chunking import TokenizedText
from focusdoc.engine_tokens import TokenEngine
from focusdoc.errors import AdapterError, ConfigError
from focusdoc.memory.chunk_memory import DocumentMemory
from focusdoc.memory.library import plan_reading
from focusdoc.memory.plan import MemoryPlan
from focusdoc.memory.reading import Progress
from focusdoc.memory.store import DocumentStore
from focusdoc.modeling.adapter_files import load_adapter, shipped_adapter_path
from focusdoc.modeling.base import load_base
from focusdoc.modeling.catalogue import DEFAULT_MODEL, known_model
from focusdoc.readers import Reader, open_reader
from focusdoc.readers.answering import stream_read_answer
from focusdoc.readers.finding import Found
from focusdoc.readers.reader import Messages
from focusdoc.storage import cache_path
from focusdoc.terminal import reading_progress


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
                "take the versions of constraints.txt. adapter=None asks it without an adapter, in direct mode."
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
        with reading_progress(document.name) if progress is None else nullcontext(progress) as show:
            tokenized = self._tokenized(document)
            chunks = tuple(cut_chunks(tokenized, self.chunk_size, document))
            blocks, encoded = self._read_tokens(tokenized.token_ids, self.store, show, document.name, on_plan)
        return DocumentMemory(tuple(tokenized.token_ids), chunks, blocks, self.maker, document, tokenized, encoded)

    def plan(self, document: Document | str | os.PathLike[str] | bytes) -> MemoryPlan:
        """What reading a document will take in bytes and seconds, and where its memory will be; reads nothing.

        Its `rung` is "none" where `read` would raise MemoryShortageError.

        Raises:
            DocumentError: it cannot be loaded or holds no text. ConfigError: the model has no tokenizer.
        """
        document = document if isinstance(document, Document) else load(document)
        plan, _ = plan_reading(
            self.store,
            self.base,
            self._tokenized(document).token_ids,
            self.chunk_size,
            anchor=self.config.anchor,
            memory_dtype=self.config.memory_dtype,
            tail_tokens=self._tail_tokens,
            speed=self._speed,
        )
        return plan

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
            ReaderError: the reader cannot be reached or breaks off; its ``.sources`` has what was found.
            MemoryShortageError: what runs behind every chunk does not fit into free memory; while the answer is written
                as well, since it grows.
        """
        answer: Answer | None = None
        for piece in self.stream(memory, question, style=style, max_sources=max_sources, cancel=cancel, **generation):
            answer = piece.answer
        if answer is None:  # pragma: no cover - the last piece always carries the answer
            raise RuntimeError("the stream ended without an answer")
        return answer

    def ask_many(
        self,
        memory: DocumentMemory | Sequence[DocumentMemory],
        questions: Sequence[str],
        *,
        style: PromptStyle = "auto",
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
            style, max_sources, cancel, generation: as for `ask`.

        Raises:
            ConfigError: `batch` is below 1, or no question is given. Else as `ask`, before anything is computed.
        """
        if isinstance(questions, str) or not questions:
            raise ConfigError(f"questions is {questions!r}; give a list with at least one question.")
        _check_count("batch", batch, 1)
        _check_count("max_sources", max_sources, 0)
        memories = self._own(memory)
        asked = []
        for question in questions:
            settings, local_ids, prompt_ids = self._prepare(question, style, generation)
            render = partial(self._rendered, question, style)
            asked.append(self._asked(memories, local_ids, prompt_ids, settings, render, max_sources, cancel))
        if self.config.direct or self.reader is not None:  # they share nothing but the weights
            return [
                self.ask(memories, question, style=style, max_sources=max_sources, cancel=cancel, **generation)
                for question in questions
            ]
        blocks = [block for one in memories for block in one.blocks]
        longest = max(len(one.prompt_ids) for one in asked)
        num_chunks = sum(block.num_chunks for block in blocks)
        batch = min(batch, questions_at_once(self.base, num_chunks, longest, asked[0].settings.max_new_tokens))
        answers: list[Answer] = []
        for start in range(0, len(asked), batch):
            group = asked[start : start + batch]
            size = chunks_at_once(self.config, [len(one.prompt_ids) for one in group])
            decoders = [self._parallel_decoder(blocks, one.settings, chunk_batch=size) for one in group]
            answers += answer_together(decoders, group)
        return answers

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
        render = partial(self._rendered, question, style)
        asked = self._asked(memories, local_ids, prompt_ids, settings, render, max_sources, cancel)
        return self._stream(asked, [("user", question)])

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
        memories = self._own(memory)
        settings, local_ids, prompt = self._fitting(flat_ids(prompt_ids, self.base.config.vocab_size), generation)
        return self._stream(self._asked(memories, local_ids, prompt, settings, quoted, max_sources, cancel), said)

    def _asked(
        self,
        memories: list[DocumentMemory],
        local_ids: list[int],
        prompt_ids: list[int],
        settings: GenerationConfig,
        render: RenderQuoted | None,
        max_sources: int,
        cancel: threading.Event | None,
    ) -> Asked:
        _check_count("max_sources", max_sources, 0)
        self._check_room([one.num_tokens for one in memories], len(local_ids), settings)
        quoting = self._quoting(render, memories, len(local_ids), settings)
        return Asked(memories, local_ids, prompt_ids, settings, self._tokenizer, quoting, max_sources, cancel)

    def _stream(self, asked: Asked, said: Messages | None) -> Generator[TextPiece, None, None]:
        """The answer to what was `said` last, by the reader, where there is one; with None by the base model."""
        self.check_reader(said, asked.settings)
        decoder = self._decoder([block for one in asked.memories for block in one.blocks], asked.settings)
        if self.reader is None or said is None:
            return stream_answer(decoder, asked)
        return stream_read_answer(decoder, asked, self.reader, said[-1][1], self.finder, earlier=said[:-1])

    def find(self, memory: DocumentMemory | Sequence[DocumentMemory], question: str) -> Found:
        """What a question makes of all windows of one memory's document or several's; nothing is written.

        Raises:
            ConfigError: a memory was made from bare token ids. Else as `ask`.
        """
        memories = self._own(memory)
        settings, local_ids, prompt_ids = self._prepare(question, "auto", {"max_new_tokens": 1})
        asked = self._asked(memories, local_ids, prompt_ids, settings, None, 0, None)
        decoder = self._decoder([block for one in memories for block in one.blocks], settings)
        return self.finder.find(decoder, asked, question)

    def check_question(self, question: str, *, style: PromptStyle = "auto", **generation: Any) -> None:
        """Raise what `ask` would raise for this question, so that no document need be read to find out.

        Raises:
            PromptTooLongError, AdapterError, ConfigError: as `ask`.
        """
        settings, local_ids, _ = self._prepare(question, style, generation)
        self.check_reader([("user", question)], settings)
        self._check_room([self.chunk_size], len(local_ids), settings)

    def check_prompt(self, prompt_ids: Sequence[int], said: Messages | None = None, **generation: Any) -> None:
        """Like `check_question`, for a local context that the caller rendered.

        Raises:
            PromptTooLongError, AdapterError, ConfigError: as `stream_prompt`.
        """
        settings, local_ids, _ = self._fitting(flat_ids(prompt_ids, self.base.config.vocab_size), generation)
        self.check_reader(said, settings)
        self._check_room([self.chunk_size], len(local_ids), settings)


def _check_count(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number of at least {least}.")
