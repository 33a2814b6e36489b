"""Questions over documents: the plain model under LlamaIndex's own engines, and the engines of this package."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Literal

import pytest
from conftest import planted
from llama_index.core import Document, Settings, SummaryIndex
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.llms.mock import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode
from llama_index.llms.focusdoc import FocusLLM, FocusQueryEngine, FocusReader, FocusSynthesizer
from pydantic import BaseModel, Field

QUESTION = "What is the access code of Oslo?"


def usages(handler: LlamaDebugHandler) -> list[dict[str, Any]]:
    """The usage of every model call that a handler saw."""
    found = []
    for event in handler.get_llm_inputs_outputs():
        response = event[1].payload.get(EventPayload.RESPONSE) or event[1].payload[EventPayload.COMPLETION]
        found.append(response.raw["usage"])
    return found


@pytest.fixture
def handler(llm: FocusLLM) -> Iterator[LlamaDebugHandler]:
    """Watches all of LlamaIndex, as users make it do."""
    watching = LlamaDebugHandler(print_trace_on_end=False)
    before = Settings.callback_manager
    Settings.callback_manager = llm.callback_manager = CallbackManager([watching])
    yield watching
    Settings.callback_manager = before


@pytest.fixture
def pages() -> list[Document]:
    """Two pages of one file; the second holds the code."""
    texts = [planted("Riga", "640275", seed=3, length=1500), planted("Oslo", "771204", length=1500)]
    return [
        Document(text=text, metadata={"file_name": "codes.txt", "file_path": "a/codes.txt", "page_label": label})
        for text, label in zip(texts, ["iv", "v"], strict=True)
    ]


def test_a_summary_index_packs_all_nodes_into_one_call_and_a_second_question_reads_nothing(
    llm: FocusLLM, handler: LlamaDebugHandler, pages: list[Document]
) -> None:
    engine = SummaryIndex(pages).as_query_engine(llm=llm, response_mode="compact")
    assert str(engine.query(QUESTION))
    engine.query("And which is the access code of the city of Riga, if the text says so?")
    first, second = usages(handler)
    assert first["encoded_tokens"] == first["document_tokens"] > 600
    assert second["encoded_tokens"] == 0
    assert second["cached_tokens"] == first["document_tokens"]
    responses = [event[1].payload[EventPayload.RESPONSE] for event in handler.get_llm_inputs_outputs()]
    assert responses[0].additional_kwargs["sources"][0]["text"] in pages[1].text


class TestFocusQueryEngine:
    def test_answers_with_pages_and_scores(
        self, llm: FocusLLM, handler: LlamaDebugHandler, pages: list[Document]
    ) -> None:
        engine = FocusQueryEngine.from_documents(pages, llm)
        response = engine.query(QUESTION)
        assert "771204" in str(response)
        top = response.source_nodes[0]
        assert top.metadata["page_label"] == "v"
        assert top.metadata["file_name"] == "codes.txt"
        assert top.get_content() in pages[1].text
        scores = [node.score for node in response.source_nodes]
        assert scores == sorted(scores, reverse=True)
        assert 0 < sum(scores) <= 1.0001
        assert response.metadata["usage"]["encoded_tokens"] > 600
        (usage,) = usages(handler)
        assert usage == response.metadata["usage"]

    async def test_reads_each_document_once(self, llm: FocusLLM, pages: list[Document]) -> None:
        engine = FocusQueryEngine.from_documents(pages, llm, max_sources=1)
        assert engine.read() > 600
        assert engine.read() == 0
        response = await engine.aquery("What is the access code of Riga?")
        assert response.metadata["usage"]["encoded_tokens"] == 0
        assert "640275" in str(response)
        assert [node.metadata["page_label"] for node in response.source_nodes] == ["iv"]

    def test_files(self, llm: FocusLLM, tmp_path: Path) -> None:
        path = tmp_path / "book.txt"
        path.write_text("\f".join([planted("Riga", "640275", seed=3, length=900), planted("Oslo", "771204")]))
        response = FocusQueryEngine.from_files([path], llm).query(QUESTION)
        assert response.source_nodes[0].metadata["page"] == 2
        assert response.source_nodes[0].metadata["total_pages"] == 2

    def test_what_a_file_lacks_reaches_the_response(self, llm: FocusLLM, tmp_path: Path) -> None:
        path = tmp_path / "letter.eml"
        path.write_bytes(mail_with_bill(planted("Oslo", "771204", length=900)))
        response = FocusQueryEngine.from_files([path], llm).query(QUESTION)
        assert response.metadata["warnings"] == [f"{path}: its attachments were not read: bill.pdf."]

    @pytest.mark.parametrize("documents", [[], [Document(text="  ")]])
    def test_empty_documents(self, llm: FocusLLM, documents: list[Document]) -> None:
        with pytest.raises(ValueError, match="no document with text"):
            FocusQueryEngine.from_documents(documents, llm)

    def test_another_model(self, pages: list[Document]) -> None:
        with pytest.raises(ValueError, match="needs a FocusLLM, not a MockLLM"):
            FocusQueryEngine.from_documents(pages, MockLLM())  # type: ignore[arg-type]

    def test_empty_question(self, llm: FocusLLM, pages: list[Document]) -> None:
        with pytest.raises(ValueError, match="ask something"):
            FocusQueryEngine.from_documents(pages, llm).query(" ")


class Code(BaseModel):
    """An access code."""

    code: str = Field(pattern="^[0-9]{6}$")


class TestFocusSynthesizer:
    @pytest.fixture
    def nodes(self) -> list[NodeWithScore]:
        texts = [planted(city, code, seed=seed, length=900) for seed, (city, code) in enumerate(CODES)]
        return [NodeWithScore(node=TextNode(text=text), score=0.5) for text in texts]

    def test_nodes_in_another_order_are_not_read_again(
        self, llm: FocusLLM, handler: LlamaDebugHandler, nodes: list[NodeWithScore]
    ) -> None:
        synthesizer = FocusSynthesizer(llm)
        response = synthesizer.synthesize(QUESTION, nodes)
        assert "771204" in str(response)
        assert response.source_nodes == nodes
        synthesizer.synthesize("What is the access code of Lima?", nodes[::-1])
        first, second = usages(handler)
        assert first["encoded_tokens"] > 600
        assert second["encoded_tokens"] == 0

    async def test_streams_and_coroutines(self, llm: FocusLLM, nodes: list[NodeWithScore]) -> None:
        whole = FocusSynthesizer(llm).get_response(QUESTION, [node.text for node in nodes])
        assert await FocusSynthesizer(llm).aget_response(QUESTION, [node.text for node in nodes]) == whole
        streaming = FocusSynthesizer(llm, streaming=True)
        assert "".join(streaming.synthesize(QUESTION, nodes).response_gen) == whole
        stream = await streaming.asynthesize(QUESTION, nodes)
        assert "".join([piece async for piece in stream.response_gen]) == whole

    def test_serves_any_retriever(self, llm: FocusLLM, pages: list[Document]) -> None:
        retriever = SummaryIndex(pages).as_retriever()
        engine = RetrieverQueryEngine(retriever, FocusSynthesizer(llm))
        assert "771204" in str(engine.query(QUESTION))

    def test_an_object(self, llm: FocusLLM, nodes: list[NodeWithScore]) -> None:
        llm.max_new_tokens = 24
        response = FocusSynthesizer(llm, output_cls=Code).synthesize(QUESTION, nodes)
        assert isinstance(response.response, Code)

    def test_empty_nodes(self, llm: FocusLLM) -> None:
        with pytest.raises(ValueError, match="All nodes are empty"):
            FocusSynthesizer(llm).get_response(QUESTION, [" "])


CODES = [("Riga", "640275"), ("Oslo", "771204"), ("Lima", "105938")]


def mail_with_bill(text: str) -> bytes:
    message = EmailMessage()
    message["MIME-Version"] = "1.0"
    message.set_content(text)
    message.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="bill.pdf")
    return bytes(message)


class TestFocusReader:
    def test_a_text_with_form_feeds(self, tmp_path: Path) -> None:
        path = tmp_path / "book.txt"
        path.write_text("one\f\ftwo")
        found = FocusReader().load_data(path, extra_info={"owner": "me"})
        assert [document.text for document in found] == ["one\f", "two"]
        assert found[1].metadata == {
            "file_path": str(path),
            "file_name": "book.txt",
            "page_label": "3",
            "page": 3,
            "total_pages": 3,
            "owner": "me",
        }

    def test_a_pdf(self) -> None:
        folder = Path(__file__).parents[4] / "shared" / "data" / "pdf"
        if not folder.is_dir():
            pytest.skip("the folder of real PDFs (../shared/data/pdf) is not beside this checkout")
        path = min(folder.glob("*.pdf"), key=lambda path: path.stat().st_size)
        found = FocusReader().load_data(path)
        assert found
        assert all(document.metadata["file_name"] == path.name and document.text.strip() for document in found)

    def test_sections_are_called_as_their_headings(self, tmp_path: Path) -> None:
        path = tmp_path / "page.html"
        path.write_text("<html><h2>Cities</h2><p>Riga<h2>Codes</h2><p>640275")
        found = FocusReader().load_data(path)
        assert [document.metadata["page_label"] for document in found] == ["Cities", "Codes"]

    def test_what_a_file_lacks_is_told_and_not_shown_to_the_model(self, tmp_path: Path) -> None:
        path = tmp_path / "letter.eml"
        path.write_bytes(mail_with_bill("Text"))
        (found,) = FocusReader().load_data(path)
        assert found.metadata["left_out"] == "its attachments were not read: bill.pdf"
        assert "bill" not in found.get_content(MetadataMode.LLM) + found.get_content(MetadataMode.EMBED)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        from focusdoc.errors import DocumentError

        with pytest.raises(DocumentError, match="no file"):
            FocusReader().load_data(tmp_path / "missing.pdf")


def test_the_debug_handler_sees_prompts_and_timings(llm: FocusLLM, handler: LlamaDebugHandler) -> None:
    llm.complete("Say yes.", max_tokens=2)
    (pair,) = handler.get_event_pairs(CBEventType.LLM)
    assert pair[0].payload[EventPayload.PROMPT] == "Say yes."
    assert handler.get_event_time_info(CBEventType.LLM).total_secs > 0


class TestSynthesizerAgain:
    """Kinds of answers, streams and cancelling through the synthesizer's own calls."""

    NODES = (NodeWithScore(node=TextNode(text="There are two mills by the river. " * 5)),)

    def test_a_list_is_an_object_of_the_response(self, llm: FocusLLM) -> None:
        synthesizer = FocusSynthesizer(llm=llm, output_cls=list[Literal["one", "two"]])
        llm.max_new_tokens = 60
        llm.generate_kwargs = {"repetition_penalty": 1.5}
        response = synthesizer.synthesize("How many mills?", list(self.NODES))
        assert isinstance(response.response, list)
        assert response.source_nodes == list(self.NODES)

    def test_a_stream_with_a_kind_stays_a_stream(self, llm: FocusLLM) -> None:
        synthesizer = FocusSynthesizer(llm=llm, output_cls=Literal["one", "two"], streaming=True)
        response = synthesizer.synthesize("How many mills?", list(self.NODES))
        assert "".join(response.response_gen) in ('"one"', '"two"')

    def test_asynchronous_calls_heed_the_callers_event(self, llm: FocusLLM) -> None:
        cancel = threading.Event()
        cancel.set()
        text = [self.NODES[0].node.get_content()]

        async def answered() -> str:
            return str(await FocusSynthesizer(llm=llm).aget_response("How many?", text, cancel=cancel))

        with pytest.raises(Exception, match="cancelled"):
            asyncio.run(answered())
