"""FocusRetriever: passages found by the model's attention, without an index or embeddings."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import Field, PrivateAttr, model_validator

from focusdoc.chat.settings import known_fields, one_or_many, refuse_unknown
from focusdoc.chat.threads import run_in_thread
from focusdoc.documents import Document as FocusDocument
from focusdoc.documents import Page
from langchain_focusdoc.chat_models import ChatFocusLLM
from langchain_focusdoc.document_loaders import FocusDocumentLoader
from langchain_focusdoc.errors import FocusRequestError, as_langchain_errors


class FocusRetriever(BaseRetriever):
    """Retrieves passages by the attention of the model.

    The documents are read once. For a query the model generates the first tokens of an answer, and the passages of the
    chunks with the most attention mass are returned, ranked, with the share of attention in ``metadata["score"]``.

    Create it with `from_documents` or `from_files`.
    """

    llm: ChatFocusLLM
    documents: list[Document]
    k: int = Field(default=4, ge=1)
    """Most passages, one per chunk."""
    look_tokens: int = Field(default=8, ge=1)
    """Tokens of the answer whose attention is used."""

    _files: list[FocusDocument] = PrivateAttr(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        return known_fields(cls, values)

    def model_post_init(self, context: Any, /) -> None:
        """Join the pages of each file; a ValidationError if there is no text."""
        super().model_post_init(context)
        self._files = _to_files(self.documents)

    @classmethod
    def from_documents(
        cls, documents: Document | Sequence[Document], llm: ChatFocusLLM | None = None, **settings: Any
    ) -> FocusRetriever:
        """A retriever over LangChain documents; those with the same source become pages of one document.

        Args:
            documents: one, or a list.
            llm: by default one with the default model.
            settings: `k`, `look_tokens`, and the settings of every retriever.

        Raises:
            FocusRequestError: no document has text.
        """
        documents = list(one_or_many(documents, Document))
        _to_files(documents)  # raise here, since pydantic would convert the error to a ValidationError
        return cls(llm=llm or ChatFocusLLM(), documents=documents, **settings)

    @classmethod
    def from_files(
        cls, files: str | Path | Sequence[str | Path], llm: ChatFocusLLM | None = None, **settings: Any
    ) -> FocusRetriever:
        """A retriever over one or several files of the kinds that `focusdoc.load` supports.

        Raises:
            focusdoc.errors.DocumentError: a file cannot be loaded.
        """
        pages = [page for file in one_or_many(files, (str, Path)) for page in FocusDocumentLoader(file).lazy_load()]
        return cls.from_documents(pages, llm, **settings)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **settings: Any
    ) -> list[Document]:
        return self._find(query, None, settings)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **settings: Any
    ) -> list[Document]:
        return await run_in_thread(lambda cancel: self._find(query, cancel, settings))

    def _find(self, query: str, cancel: threading.Event | None, settings: dict[str, Any]) -> list[Document]:
        """The passages for a query; `settings` of the call override `k` and `look_tokens`."""
        with as_langchain_errors():
            refuse_unknown(settings, ("k", "look_tokens"), "A call of FocusRetriever")
            k, look_tokens = settings.get("k"), settings.get("look_tokens")
            answer = self.llm.focus.get().without_reader.ask(  # only retrieval is needed
                self._files,
                query,
                max_sources=self.k if k is None else k,
                cancel=cancel,
                max_new_tokens=self.look_tokens if look_tokens is None else look_tokens,
            )
        files = {file.name: file for file in self._files}
        found = []
        for source in answer.sources:
            file = files[source.document]
            metadata = {
                **file.metadata["of_pages"][source.page - 1],
                "source": source.document,
                "start_index": source.start - file.pages[source.page - 1].start,
                "score": source.score,
            }
            found.append(Document(page_content=source.text, metadata=metadata))
        return found


def _to_files(documents: Sequence[Document]) -> list[FocusDocument]:
    """One document for each source, with its LangChain documents as pages; without a source each is separate."""
    sources: dict[str, list[Document]] = {}
    for number, document in enumerate(documents, start=1):
        if document.page_content.strip():
            name = str(document.metadata.get("source") or f"document {number}")
            sources.setdefault(name, []).append(document)
    if not sources:
        raise FocusRequestError("There is no document with text in it; pass at least one.")
    return [_join(name, pages) for name, pages in sources.items()]


def _join(name: str, documents: Sequence[Document]) -> FocusDocument:
    text = ""
    pages: list[Page] = []
    for number, document in enumerate(documents, start=1):
        start = len(text)
        text += document.page_content
        if number < len(documents) and not text.endswith(("\n", "\f", " ")):
            text += "\n"  # keeps the words of two pages apart
        label = document.metadata.get("page_label")
        pages.append(Page(number, None if label is None else str(label), start, len(text)))
    of_pages = [document.metadata for document in documents]
    left_out = list(dict.fromkeys(page["left_out"] for page in of_pages if page.get("left_out")))
    known = {"name": name, "format": "pages", "of_pages": of_pages, "left_out": left_out}
    return FocusDocument(text, tuple(pages), known)
