"""Loader and retriever: pages of files, and the passages that attention points to."""

from __future__ import annotations

from email.message import EmailMessage
from pathlib import Path

import pytest
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_focusdoc import ChatFocusLLM, FocusDocumentLoader, FocusRequestError, FocusRetriever
from samples import planted

from focusdoc.errors import DocumentError

QUESTION = "What is the access code of Oslo?"


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """Three pages, the second empty; the third holds the code."""
    path = tmp_path / "book.txt"
    path.write_text("\f".join([planted("Riga", "640275", seed=3, length=1200), "", planted("Oslo", "771204")]))
    return path


class TestLoader:
    def test_pages_and_metadata(self, book: Path) -> None:
        first, third = FocusDocumentLoader(book).load()
        assert first.metadata == {"source": str(book), "page": 0, "page_label": "1", "total_pages": 3}
        assert third.metadata["page"] == 2
        assert "771204" in third.page_content

    def test_sections_are_called_as_their_headings(self, tmp_path: Path) -> None:
        path = tmp_path / "page.html"
        path.write_text("<html><h2>Cities</h2><p>Riga<h2>Codes</h2><p>640275")
        assert [page.metadata["page_label"] for page in FocusDocumentLoader(path).load()] == ["Cities", "Codes"]

    def test_what_a_file_lacks_is_told_here_and_with_the_passages(self, llm: ChatFocusLLM, tmp_path: Path) -> None:
        message = EmailMessage()
        message["MIME-Version"] = "1.0"
        message.set_content(planted("Oslo", "771204"))
        message.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="bill.pdf")
        path = tmp_path / "letter.eml"
        path.write_bytes(bytes(message))
        said = "its attachments were not read: bill.pdf"
        (page,) = FocusDocumentLoader(path).load()
        assert page.metadata["left_out"] == said
        assert FocusRetriever.from_files([path], llm, k=1).invoke(QUESTION)[0].metadata["left_out"] == said

    def test_loads_lazily(self, tmp_path: Path) -> None:
        pages = FocusDocumentLoader(tmp_path / "missing.pdf").lazy_load()
        with pytest.raises(DocumentError, match="no file"):
            next(pages)

    def test_a_pdf(self) -> None:
        folder = Path(__file__).parents[5] / "shared" / "data" / "pdf"
        if not folder.is_dir():
            pytest.skip("the folder of real PDFs (../shared/data/pdf) is not beside this checkout")
        path = min(folder.glob("*.pdf"), key=lambda path: path.stat().st_size)
        pages = FocusDocumentLoader(path).load()
        assert pages
        assert all(page.metadata["source"] == str(path) and page.page_content.strip() for page in pages)


class TestRetriever:
    def test_the_passage_and_its_page(self, llm: ChatFocusLLM, book: Path) -> None:
        retriever = FocusRetriever.from_files([book], llm, k=2)
        found = retriever.invoke(QUESTION)
        assert len(found) == 2
        assert "771204" in found[0].page_content
        assert found[0].metadata["source"] == str(book)
        assert (found[0].metadata["page"], found[0].metadata["page_label"]) == (2, "3")
        assert 1 >= found[0].metadata["score"] >= found[1].metadata["score"] > 0
        page = FocusDocumentLoader(book).load()[1].page_content
        begin = found[0].metadata["start_index"]
        assert page[begin : begin + len(found[0].page_content)] == found[0].page_content

    async def test_documents_are_read_once(self, llm: ChatFocusLLM) -> None:
        documents = [
            Document(page_content=planted("Riga", "640275", seed=3, length=1000), metadata={"source": "a"}),
            Document(page_content=planted("Oslo", "771204", length=1000), metadata={"source": "b", "owner": "me"}),
        ]
        retriever = FocusRetriever.from_documents(documents, llm, k=1)
        (first,) = await retriever.ainvoke(QUESTION)
        assert (first.metadata["source"], first.metadata["owner"]) == ("b", "me")
        assert len(llm.focus.get().pool) == 2
        (second,) = retriever.invoke("What is the access code of Riga?")
        assert second.metadata["source"] == "a"
        assert len(llm.focus.get().pool) == 2

    def test_in_a_chain(self, llm: ChatFocusLLM, book: Path) -> None:
        retriever = FocusRetriever.from_files([book], llm, k=1)
        prompt = ChatPromptTemplate([("human", "{passages}\n\nQuestion: {question}")])
        chain = (
            {"passages": retriever | (lambda found: found[0].page_content), "question": RunnablePassthrough()}
            | prompt
            | llm.bind(max_tokens=20)
            | StrOutputParser()
        )
        assert "771204" in chain.invoke(QUESTION)

    @pytest.mark.parametrize("documents", [[], [Document(page_content=" ")]])
    def test_empty_documents(self, documents: list[Document]) -> None:
        with pytest.raises(FocusRequestError, match="no document with text"):
            FocusRetriever.from_documents(documents)

    def test_settings_of_a_call_and_unknown_ones(self, llm: ChatFocusLLM, book: Path) -> None:
        retriever = FocusRetriever.from_files(str(book), llm, k=2, look_tokens=None)
        assert len(retriever.invoke(QUESTION, k=1)) == 1
        wanted = "no setting 'look_token'.*Did you mean 'look_tokens'"
        with pytest.raises(FocusRequestError, match=wanted):
            retriever.invoke(QUESTION, look_token=1)
        with pytest.raises(ValueError, match=wanted):
            FocusRetriever.from_files([book], llm, look_token=1)

    def test_empty_question(self, llm: ChatFocusLLM, book: Path) -> None:
        with pytest.raises(FocusRequestError, match="ask something"):
            FocusRetriever.from_files([book], llm).invoke(" ")
