"""FocusQueryEngine: questions about whole documents, without an index or a retriever."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_index.core.base.response.schema import Response
from llama_index.core.bridge.pydantic import model_validator
from llama_index.core.query_engine import CustomQueryEngine
from llama_index.core.schema import BaseNode
from llama_index.llms.focusdoc.base import FocusLLM
from llama_index.llms.focusdoc.documents import to_documents, to_nodes
from llama_index.llms.focusdoc.messages import raw_of
from llama_index.llms.focusdoc.reader import FocusReader
from llama_index.llms.focusdoc.tracing import focus_llm, stream_question

from focusdoc.chat.settings import known_fields, one_or_many
from focusdoc.chat.threads import last_answer, run_in_thread
from focusdoc.documents import Document as FocusDocument


class FocusQueryEngine(CustomQueryEngine):
    """Answers questions about documents, each of which is read once.

    `Response.source_nodes` are the passages with the most attention, with page labels and the share of attention as
    score; `Response.metadata` has usage and timings.

    Create it with `from_documents` or `from_files`.
    """

    llm: FocusLLM
    documents: list[FocusDocument]
    max_sources: int | None = None
    """Most passages; None for the LLM's `max_sources`."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        return known_fields(cls, values)

    @classmethod
    def from_documents(
        cls, documents: BaseNode | Sequence[BaseNode], llm: FocusLLM | None = None, **settings: Any
    ) -> FocusQueryEngine:
        """An engine over LlamaIndex documents or nodes; those of the same file become its pages.

        Args:
            documents: one, or a list.
            llm: by default `Settings.llm`, else the default model.
            settings: `max_sources`, `callback_manager`.

        Raises:
            ValueError: there is no text, or the LLM is not a FocusLLM.
        """
        model = focus_llm(llm)
        settings.setdefault("callback_manager", model.callback_manager)
        return cls(llm=model, documents=to_documents(one_or_many(documents, BaseNode)), **settings)

    @classmethod
    def from_files(
        cls, files: str | Path | Sequence[str | Path], llm: FocusLLM | None = None, **settings: Any
    ) -> FocusQueryEngine:
        """An engine over one or several files of the kinds that `focusdoc.load` supports.

        Raises:
            focusdoc.errors.DocumentError: a file cannot be loaded. ValueError: as `from_documents`.
        """
        reader = FocusReader()
        pages = [page for file in one_or_many(files, (str, Path)) for page in reader.load_data(file)]
        return cls.from_documents(pages, llm, **settings)

    def read(self) -> int:
        """Read the documents now instead of at the first question; returns how many tokens had to be read."""
        chat = self.llm.focus.get()
        return sum(chat.read(document)[1] for document in self.documents)

    def custom_query(self, query_str: str) -> Response:
        """The answer to a question.

        Raises:
            ValueError: the question is empty or too long, or the documents do not fit into the memory.
        """
        return self._answer(query_str, None)

    async def acustom_query(self, query_str: str) -> Response:
        """Like `custom_query`, in a thread; cancelling the task ends the answer."""
        return await run_in_thread(lambda cancel: self._answer(query_str, cancel))

    def _answer(self, question: str, cancel: threading.Event | None) -> Response:
        pieces = stream_question(
            self.llm, self.callback_manager, self.documents, question, max_sources=self.max_sources, cancel=cancel
        )
        answer = last_answer(pieces)
        return Response(
            answer.text,
            source_nodes=list(to_nodes(answer.sources, self.documents)),
            metadata=raw_of(answer, self.llm.focus.get().engine),
        )
