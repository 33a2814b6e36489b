"""ChatFocusLLM with a reader: a chat model of LangChain, a model in this process, an endpoint that is not there."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.documents import Document
from langchain_core.language_models.fake_chat_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_focusdoc import ChatFocusLLM, FocusContextOverflowError, FocusRequestError, FocusRetriever
from langchain_focusdoc.writing import LangChainReader
from pydantic import BaseModel, PrivateAttr, ValidationError
from samples import SHORT, planted

from focusdoc.config import GenerationConfig
from focusdoc.errors import ReaderError
from focusdoc.readers.reader import collect

OSLO = planted("Oslo", "771204")
QUESTION = "What is the access code of Oslo?"
LONG = [SystemMessage(f"Answer from the context.\n\n{OSLO}"), HumanMessage(QUESTION)]
NOWHERE = {"reader": "http://127.0.0.1:9/v1", "reader_model": "m"}


class Told(FakeListChatModel):
    """Says the same thing, piece by piece, and keeps what it was asked."""

    model_name: str = "told"
    responses: list[str] = []
    pieces: list[str] = ["The code ", "is 7", "71204."]
    fails: bool = False
    reason: str = "stop"
    _asked: list[list[tuple[str, str]]] = PrivateAttr(default_factory=list)
    _stops: list[Any] = PrivateAttr(default_factory=list)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        self._asked.append([(message.type, str(message.text)) for message in messages])
        self._stops.append(stop)
        for number, piece in enumerate(self.pieces):
            if self.fails and number:
                raise OSError("the line was cut")
            yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
        last = AIMessageChunk(
            content="",
            usage_metadata={"input_tokens": 123, "output_tokens": 9, "total_tokens": 132},
            response_metadata={"finish_reason": self.reason},
        )
        yield ChatGenerationChunk(message=last)


def with_reader(llm: ChatFocusLLM, reader: Any, **settings: Any) -> ChatFocusLLM:
    """Over the model of `llm`, whose weights are loaded and whose memories are empty."""
    return ChatFocusLLM(**{"config": llm.config, "max_tokens": 12, "reader": reader, **settings})


class TestAnObject:
    def test_gets_short_prompts_as_they_are(self, llm: ChatFocusLLM) -> None:
        told = Told()
        turns = [("system", "Be brief."), ("human", "Hi."), ("ai", "Hello."), ("human", "The code?")]
        message = with_reader(llm, told).invoke(turns)
        assert told._asked == [turns]
        assert message.content == "The code is 771204."
        assert message.usage_metadata["input_tokens"] == message.response_metadata["reader_tokens"] == 123
        assert message.usage_metadata["output_tokens"] == 9
        assert message.response_metadata["reader"] == "told"
        assert message.response_metadata["model_name"] == "SmolLM2-135M-Instruct"

    async def test_gets_passages_of_long_ones_and_all_ways_agree(self, llm: ChatFocusLLM) -> None:
        told = Told()
        reading = with_reader(llm, told)
        whole = reading.invoke(LONG)
        (system, user) = told._asked[0]
        assert system[0] == "system"
        assert "\n\nAnswer from the context." in system[1]
        assert "The access code of Oslo is 771204." in user[1]
        assert user[1].endswith(f"Question: {QUESTION}")
        assert whole.content == "The code is 771204."
        assert any("771204" in source["text"] for source in whole.response_metadata["sources"])
        assert whole.usage_metadata["input_token_details"]["cache_creation"] > 500
        assert whole.usage_metadata["input_tokens"] > 623
        chunks = [chunk.content for chunk in reading.stream(LONG)]
        assert [chunk for chunk in chunks if chunk] == told.pieces
        assert (await reading.ainvoke(LONG)).content == whole.content
        assert [chunk.content async for chunk in reading.astream(LONG)] == chunks
        assert [one.content for one in reading.batch([LONG, LONG])] == [whole.content] * 2
        assert all(asked == told._asked[0] for asked in told._asked)

    def test_stop_strings_end_it(self, llm: ChatFocusLLM) -> None:
        told = Told()
        for prompt in ("The code?", LONG):
            message = with_reader(llm, told).invoke(prompt, stop=["is 77"])
            assert (message.content, message.response_metadata["finish_reason"]) == ("The code ", "stop")
        assert told._stops == [["is 77"]] * 2

    def test_says_that_it_was_cut(self, llm: ChatFocusLLM) -> None:
        assert with_reader(llm, Told(reason="length")).invoke("Hi").response_metadata["finish_reason"] == "length"

    def test_cancelling_ends_it(self, llm: ChatFocusLLM) -> None:
        for prompt in ("The code?", LONG):
            cancel = threading.Event()
            chunks = []
            for chunk in with_reader(llm, Told()).stream(prompt, cancel=cancel):
                chunks.append(chunk)
                cancel.set()
            assert "".join(chunk.content for chunk in chunks) == "The code "
            assert chunks[-1].response_metadata["finish_reason"] == "cancelled"

    def test_keeps_its_own_sampling_and_takes_no_schema_and_no_tools(self, llm: ChatFocusLLM) -> None:
        class Code(BaseModel):
            code: int

        told = Told()
        with pytest.raises(FocusRequestError, match=r"temperature is 0\.5, but the reader told keeps its own sampling"):
            with_reader(llm, told).invoke(LONG, temperature=0.5)
        with pytest.raises(FocusRequestError, match="told does not support grammars.*use a model in this process"):
            with_reader(llm, told).with_structured_output(Code).invoke(LONG)
        with pytest.raises(FocusRequestError, match="cannot call tools"):
            with_reader(llm, told).invoke(LONG, tools=[{"name": "add"}])
        assert told._asked == []

    def test_its_profile_bounds_what_it_gets(self, llm: ChatFocusLLM) -> None:
        with pytest.raises(FocusContextOverflowError, match="exceed the 100 tokens of told"):
            with_reader(llm, Told(profile={"max_input_tokens": 100})).invoke(LONG)

    def test_a_failure_leaves_the_sources(self, llm: ChatFocusLLM) -> None:
        with pytest.raises(ReaderError, match="reader told failed: the line was cut") as failed:
            with_reader(llm, Told(fails=True)).invoke(LONG)
        assert any("771204" in source.text for source in failed.value.sources)  # type: ignore[attr-defined]

    def test_any_chat_model_will_do(self, llm: ChatFocusLLM) -> None:
        generic = GenericFakeChatModel(messages=iter([AIMessage(content="One two.")]))
        assert with_reader(llm, generic).invoke("Hi").content == "One two."
        within = with_reader(llm, ChatFocusLLM(config=SHORT, max_tokens=12))
        assert "Paris" in within.invoke("What is the capital of France?").content


class TestAModelInThisProcess:
    def test_writes_and_takes_a_schema(self, llm: ChatFocusLLM) -> None:
        class Person(BaseModel):
            name: str
            age: int

        reading = with_reader(llm, "smollm2-135m-instruct", max_tokens=40)
        prompt = "Ada is 36 years old. Who is Ada, and how old?"
        person = reading.with_structured_output(Person)
        assert person.invoke(prompt) == Person(name="Ada", age=36)
        assert isinstance(person.invoke([SystemMessage(f"Answer.\n\n{OSLO}"), HumanMessage(prompt)]), Person)
        once, again = (reading.invoke(LONG, temperature=0.9, seed=3).content for _ in range(2))
        assert once == again
        assert reading.focus is with_reader(llm, "smollm2-135m-instruct").focus


class TestRetriever:
    def test_finds_without_asking_the_reader(self, llm: ChatFocusLLM) -> None:
        told = Told()
        document = Document(page_content=OSLO)
        wanted = FocusRetriever.from_documents(document, llm).invoke(QUESTION)
        assert FocusRetriever.from_documents(document, with_reader(llm, told)).invoke(QUESTION) == wanted
        assert told._asked == []


class TestSettings:
    def test_objects_with_readers_share_one_model_and_its_memories(self, llm: ChatFocusLLM) -> None:
        one, two = with_reader(llm, Told()), with_reader(llm, Told())
        assert one.focus.get().engine.base is llm.focus.get().engine.base is two.focus.get().engine.base
        one.invoke(LONG)
        for other in (two, llm):
            assert other.invoke(LONG).usage_metadata["input_token_details"]["cache_creation"] == 0

    def test_an_endpoint_is_a_setting_like_any_other(self, llm: ChatFocusLLM) -> None:
        reading = with_reader(llm, **NOWHERE)
        assert pickle.loads(pickle.dumps(reading)).focus is reading.focus is not llm.focus
        with pytest.raises(ReaderError, match=r"No reader answers at http://127\.0\.0\.1:9/v1") as failed:
            reading.invoke(LONG)
        assert any("771204" in source.text for source in failed.value.sources)  # type: ignore[attr-defined]

    def test_copies_share_an_object_and_caches_tell_two_apart(self, llm: ChatFocusLLM) -> None:
        told = Told()
        reading = with_reader(llm, told)
        copy.deepcopy(reading).invoke("Hi")
        assert len(told._asked) == 1
        engine = llm.focus.get().engine
        models = [llm, reading, with_reader(llm, Told(responses=["x"])), with_reader(llm, **NOWHERE)]
        models += [ChatFocusLLM(engine=engine), ChatFocusLLM(engine=engine.with_reader(reading.reader))]
        assert len({one._get_llm_string() for one in models}) == len(models)
        assert with_reader(llm, Told())._get_llm_string() == reading._get_llm_string()

    def test_what_cannot_be(self, llm: ChatFocusLLM) -> None:
        with pytest.raises(ValidationError, match="engine= is already loaded, so reader= has no effect"):
            ChatFocusLLM(engine=llm.focus.get(), reader=Told())
        with pytest.raises(ValueError, match="reader= names no endpoint"):
            with_reader(llm, None, reader_model="m").invoke("Hi")
        with pytest.raises(ValueError, match="with reader_model="):
            with_reader(llm, NOWHERE["reader"]).invoke("Hi")


def test_a_reader_that_reports_no_usage_is_estimated() -> None:
    reader = LangChainReader(FakeListChatModel(responses=["The mill is owned by Frank Launder."]))
    prompt = "A long prompt of several words. " * 20
    _, written = collect(reader.write([("user", prompt)], GenerationConfig()))
    assert written.prompt_tokens == reader.count(prompt)
    assert written.completion_tokens > 0


def test_a_stream_that_is_cancelled_while_it_reads_says_so(llm: ChatFocusLLM) -> None:
    cancel = threading.Event()
    cancel.set()
    prompt = f"Read this.\n\n{planted('Oslo', '4471')}\n\nQuestion: what is the code?"
    for call in (llm.invoke, lambda *args, **more: list(llm.stream(*args, **more))):
        with pytest.raises(Exception, match="cancelled while its documents were read"):
            call(prompt, cancel=cancel)


def test_a_retriever_finds_with_one_engine(llm: ChatFocusLLM) -> None:
    chat = llm.focus.get()
    assert chat.without_reader is chat.without_reader
    assert chat.without_reader.engine.reader is None
