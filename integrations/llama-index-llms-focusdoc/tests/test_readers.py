"""FocusLLM with a reader: an LLM of LlamaIndex, a model in this process, an endpoint that is not there."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from conftest import SHORT, planted
from llama_index.core import Document
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ChatResponseGen, LLMMetadata
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.llms import MockLLM
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.focusdoc import FocusLLM, FocusQueryEngine, FocusSynthesizer
from pydantic import BaseModel, PrivateAttr

from focusdoc.errors import ConfigError, PromptTooLongError, ReaderError

OSLO = planted("Oslo", "771204")
PROMPT = f"Context is below.\n---------\n{OSLO}\n---------\nQuery: What is the access code of Oslo?\nAnswer: "
NOWHERE = {"reader": "http://127.0.0.1:9/v1", "reader_model": "m"}


class Told(CustomLLM):
    """Says the same thing, piece by piece, and keeps what it was asked."""

    pieces: list[str] = ["The code ", "is 7", "71204."]
    window: int = 4096
    fails: bool = False
    _asked: list[list[tuple[str, str]]] = PrivateAttr(default_factory=list)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=self.window, model_name="told")

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        self._asked.append([(message.role.value, message.content or "") for message in messages])

        def responses() -> ChatResponseGen:
            text = ""
            for number, piece in enumerate(self.pieces):
                if self.fails and number:
                    raise OSError("the line was cut")
                text += piece
                yield ChatResponse(message=ChatMessage(role="assistant", content=text), delta=piece)
            usage = {"prompt_tokens": 123, "completion_tokens": 9}
            yield ChatResponse(message=ChatMessage(role="assistant", content=text), delta="", raw={"usage": usage})

        return responses()

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError


def with_reader(llm: FocusLLM, reader: Any, **settings: Any) -> FocusLLM:
    """Over the model of `llm`, whose weights are loaded and whose memories are empty."""
    return FocusLLM(**{"config": llm.config, "max_new_tokens": 12, "reader": reader, **settings})


class TestAnObject:
    def test_gets_short_prompts_as_they_are(self, llm: FocusLLM) -> None:
        told = Told()
        turns = [("system", "Be brief."), ("user", "Hi."), ("assistant", "Hello."), ("user", "The code?")]
        response = with_reader(llm, told).chat([ChatMessage(role=role, content=text) for role, text in turns])
        assert told._asked == [turns]
        assert response.message.content == "The code is 771204."
        assert (response.raw["reader"], response.raw["model"]) == ("Told", "SmolLM2-135M-Instruct")
        usage = response.raw["usage"]
        assert (usage["prompt_tokens"], usage["reader_tokens"], usage["completion_tokens"]) == (123, 123, 9)

    async def test_gets_passages_of_long_ones_and_all_ways_agree(self, llm: FocusLLM) -> None:
        told = Told()
        reading = with_reader(llm, told)
        whole = reading.complete(PROMPT)
        (system, user) = told._asked[0]
        assert system[0] == "system"
        assert "The access code of Oslo is 771204." in user[1]
        assert user[1].endswith("Query: What is the access code of Oslo?\nAnswer: ")
        assert whole.text == "The code is 771204."
        assert any("771204" in source["text"] for source in whole.additional_kwargs["sources"])
        usage = whole.raw["usage"]
        assert usage["document_tokens"] == usage["encoded_tokens"] > 500
        assert usage["reader_tokens"] == 123
        assert usage["prompt_tokens"] > usage["document_tokens"] + 123
        streamed = [response.delta for response in reading.stream_complete(PROMPT)]
        assert [piece for piece in streamed if piece] == told.pieces
        assert (await reading.acomplete(PROMPT)).text == whole.text
        assert [part.delta async for part in await reading.astream_complete(PROMPT)] == streamed
        assert all(asked == told._asked[0] for asked in told._asked)

    def test_stop_strings_end_it(self, llm: FocusLLM) -> None:
        reading = with_reader(llm, Told())
        for prompt in ("The code?", PROMPT):
            assert reading.complete(prompt, stop="is 77").text == "The code "

    def test_cancelling_ends_it(self, llm: FocusLLM) -> None:
        for prompt in ("The code?", PROMPT):
            cancel = threading.Event()
            taken = []
            for response in with_reader(llm, Told()).stream_complete(prompt, cancel=cancel):
                taken.append(response)
                cancel.set()
            assert taken[-1].raw["finish_reason"] == "cancelled"
            assert taken[-1].text == "The code "

    async def test_a_cancelled_task_ends_it(self, llm: FocusLLM) -> None:
        first = asyncio.Event()

        async def consume() -> None:
            async for _ in await with_reader(llm, Told(pieces=["x"] * 100_000)).astream_complete("Hi"):
                first.set()

        task = asyncio.create_task(consume())
        await first.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    def test_keeps_its_own_sampling_and_takes_no_schema(self, llm: FocusLLM) -> None:
        class Code(BaseModel):
            code: int

        told = Told()
        with pytest.raises(ValueError, match=r"temperature is 0\.5, but the reader Told keeps its own sampling"):
            with_reader(llm, told, temperature=0.5).complete(PROMPT)
        with pytest.raises(ValueError, match="Told does not support grammars.*use a model in this process"):
            with_reader(llm, told).structured_predict(Code, PromptTemplate("The code?"))
        with pytest.raises(ValueError, match="Told does not support grammars"):
            FocusSynthesizer(with_reader(llm, told), output_cls=Code).get_response("The code?", [OSLO])
        assert told._asked == []

    def test_its_window_bounds_what_it_gets(self, llm: FocusLLM) -> None:
        with pytest.raises(PromptTooLongError, match="exceed the 100 tokens of Told"):
            with_reader(llm, Told(window=100)).complete(PROMPT)

    def test_a_failure_leaves_the_sources(self, llm: FocusLLM) -> None:
        reading = with_reader(llm, Told(fails=True))
        engine = FocusQueryEngine.from_documents(Document(text=OSLO), reading)
        for ask in (lambda: reading.complete(PROMPT), lambda: engine.query("What is the access code of Oslo?")):
            with pytest.raises(ReaderError, match="reader Told failed: the line was cut") as failed:
                ask()
            assert any("771204" in source.text for source in failed.value.sources)  # type: ignore[attr-defined]

    def test_any_llm_will_do(self, llm: FocusLLM) -> None:
        for other in (MockLLM(max_tokens=3, is_chat_model=True), MockLLM(max_tokens=3)):
            assert with_reader(llm, other).complete("Hi").text == "text text text"
        within = with_reader(llm, FocusLLM(config=SHORT, max_new_tokens=4))
        assert within.complete("What is the capital of France?").text


class TestQueries:
    def test_engine_synthesizer_and_callbacks(self, llm: FocusLLM) -> None:
        counter = TokenCountingHandler()
        reading = with_reader(llm, Told(), callback_manager=CallbackManager([counter]))
        response = FocusQueryEngine.from_documents(Document(text=OSLO), reading).query("What is the code of Oslo?")
        assert str(response) == "The code is 771204."
        assert any("771204" in node.text for node in response.source_nodes)
        assert response.metadata["usage"]["reader_tokens"] == 123
        assert counter.completion_llm_token_count == 9
        assert FocusSynthesizer(reading).get_response("The code?", [OSLO]) == "The code is 771204."


class TestAModelInThisProcess:
    def test_writes_and_takes_a_schema(self, llm: FocusLLM) -> None:
        class Person(BaseModel):
            name: str
            age: int

        reading = with_reader(llm, "smollm2-135m-instruct", max_new_tokens=40)
        prompt = "Ada is 36 years old. Who is {name}, and how old?"
        assert reading.structured_predict(Person, PromptTemplate(prompt), name="Ada") == Person(name="Ada", age=36)
        long = f"{prompt}\n-----\n{OSLO}\n-----\nQuestion: " + prompt
        found = reading.structured_predict(Person, PromptTemplate(long), name="Ada")
        assert isinstance(found, Person)
        response = reading.complete(PROMPT, temperature=0.9, seed=3)
        assert response.text == reading.complete(PROMPT, temperature=0.9, seed=3).text
        assert response.raw["reader"] == "SmolLM2-135M-Instruct"
        assert response.raw["usage"]["reader_tokens"] > 100
        assert reading.focus is with_reader(llm, "smollm2-135m-instruct").focus

    def test_a_formatted_prompt_is_continued_by_the_base_model(self, llm: FocusLLM) -> None:
        wanted = llm.complete("One, two,", formatted=True)
        found = with_reader(llm, Told()).complete("One, two,", formatted=True)
        assert found.text == wanted.text
        assert found.raw["usage"]["reader_tokens"] == 0


class TestSettings:
    def test_objects_with_readers_share_one_model_and_its_memories(self, llm: FocusLLM) -> None:
        one, two = with_reader(llm, Told()), with_reader(llm, Told())
        assert one.focus.is_loaded  # since `llm` is
        assert one.focus.get().engine.base is llm.focus.get().engine.base is two.focus.get().engine.base
        one.complete(PROMPT)
        for other in (two, llm):
            assert other.complete(PROMPT).raw["usage"]["encoded_tokens"] == 0
        assert llm.focus.get().engine.reader is None

    def test_an_endpoint_is_a_setting_like_any_other(self, llm: FocusLLM) -> None:
        reading = with_reader(llm, **NOWHERE)
        assert FocusLLM.from_dict(reading.to_dict()).focus is reading.focus is not llm.focus
        assert pickle.loads(pickle.dumps(reading)).focus is reading.focus
        with pytest.raises(ReaderError, match=r"No reader answers at http://127\.0\.0\.1:9/v1") as failed:
            reading.complete(PROMPT)
        assert any("771204" in source.text for source in failed.value.sources)  # type: ignore[attr-defined]

    def test_an_object_is_shared_by_copies_named_in_dictionaries_and_pickled_where_it_can_be(
        self, llm: FocusLLM
    ) -> None:
        told = Told()
        reading = with_reader(llm, told)
        copy.deepcopy(reading).complete("Hi")
        assert len(told._asked) == 1
        assert json.loads(reading.to_json())["reader"] == "LlamaIndexReader(Told, 'Told')"
        assert pickle.loads(pickle.dumps(with_reader(llm, MockLLM(max_tokens=3)))).complete("Hi").text
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
            pickle.dumps(with_reader(llm, llm.focus.get().engine.base))

    def test_what_cannot_be(self, llm: FocusLLM) -> None:
        with pytest.raises(ValueError, match="engine= is already loaded, so reader= has no effect"):
            FocusLLM(engine=llm.focus.get(), reader=Told())
        with pytest.raises(ConfigError, match="reader= names no endpoint"):
            with_reader(llm, None, reader_model="m").complete("Hi")
        with pytest.raises(ConfigError, match="with reader_model="):
            with_reader(llm, NOWHERE["reader"]).complete("Hi")
