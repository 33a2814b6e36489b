"""Memory, sources, threads, cancelling, tracing, structured answers, and everything that can be wrong with a call."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import pickle
import time
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import pydantic.v1
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.exceptions import ContextOverflowError, LangChainException, OutputParserException
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField
from langchain_focusdoc import (
    ChatFocusLLM,
    FocusContextOverflowError,
    FocusIncompleteAnswerError,
    FocusRequestError,
    FocusRetriever,
)
from pydantic import BaseModel, ValidationError
from samples import SHORT, planted
from typing_extensions import TypedDict

from focusdoc import FocusConfig, FocusEngine
from focusdoc.chat.shared import clear_shared_chats
from focusdoc.decoding.parallel import ParallelDecoder
from focusdoc.errors import ConfigError, IncompleteAnswerError

CODES = {"Oslo": "771204", "Riga": "640275", "Lima": "105938"}
CHAIN_PROMPT = ChatPromptTemplate(
    [("system", "Answer the question from the context.\n\n{context}"), ("human", "{question}")]
)


def question(city: str) -> str:
    return f"What is the access code of {city}?"


class TestMemory:
    def test_a_chain_reads_its_context_once(self, llm: ChatFocusLLM) -> None:
        chain = CHAIN_PROMPT | llm
        context = planted("Oslo", "771204")
        first = chain.invoke({"context": context, "question": question("Oslo")})
        second = chain.invoke({"context": context, "question": "Is there any code of any other city, do you think?"})
        assert "771204" in first.content
        read, found = (message.usage_metadata["input_token_details"] for message in (first, second))
        assert read["cache_read"] == found["cache_creation"] == 0
        assert read["cache_creation"] == found["cache_read"] > 500
        assert first.usage_metadata["input_tokens"] > read["cache_creation"]

    def test_sources_quote_the_context(self, llm: ChatFocusLLM) -> None:
        context = planted("Oslo", "771204")
        message = (CHAIN_PROMPT | llm).invoke({"context": context, "question": question("Oslo")})
        top = message.response_metadata["sources"][0]
        assert "771204" in top["text"]
        assert top["text"] in context

    def test_text_blocks_are_known_again_in_any_order(self, llm: ChatFocusLLM) -> None:
        texts = [planted("Oslo", "771204"), planted("Riga", "640275", seed=3)]

        def ask(parts: list[str]) -> Any:
            blocks = [{"type": "text", "text": text} for text in [*parts, question("Riga")]]
            return llm.invoke([HumanMessage(content=blocks)]).usage_metadata["input_token_details"]

        assert ask(texts)["cache_creation"] > 1000
        assert ask(texts[::-1])["cache_creation"] == 0


class TestCalling:
    async def test_all_ways_agree(self, llm: ChatFocusLLM) -> None:
        prompt = "What is the capital of France?"
        whole = llm.invoke(prompt)
        assert "Paris" in whole.content
        assert (await llm.ainvoke(prompt)).content == whole.content
        assert [message.content for message in llm.batch([prompt, prompt])] == [whole.content] * 2
        assert [message.content for message in await llm.abatch([prompt])] == [whole.content]
        chunks = list(llm.stream(prompt))
        assert "".join(chunk.content for chunk in chunks) == whole.content
        assert "".join([chunk.content async for chunk in llm.astream(prompt)]) == whole.content
        assert [chunk.usage_metadata is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        assert chunks[-1].chunk_position == "last"
        assert chunks[-1].usage_metadata == whole.usage_metadata
        assert await (CHAIN_PROMPT | llm | StrOutputParser()).ainvoke({"context": "", "question": prompt})

    def test_settings_of_object_and_call(self, llm: ChatFocusLLM) -> None:
        prompt = "What is the capital of France?"
        assert llm.invoke(prompt, max_tokens=2).usage_metadata["output_tokens"] == 2
        assert llm.bind(max_tokens=3).invoke(prompt).usage_metadata["output_tokens"] == 3
        assert "Paris" not in llm.invoke(prompt, stop=["Paris"]).content
        assert "Paris" not in llm.bind(stop=["Paris"]).invoke(prompt).content
        once, again = (llm.invoke(prompt, temperature=1.5, seed=7).content for _ in range(2))
        assert once == again
        assert llm.invoke(prompt).response_metadata["finish_reason"] in ("stop", "length")

    def test_none_is_the_default_and_a_stop_string_may_stand_alone(self, llm: ChatFocusLLM) -> None:
        prompt = "What is the capital of France?"
        nothing = dict.fromkeys(("max_tokens", "temperature", "top_p", "top_k", "stop", "seed"))
        assert ChatFocusLLM(**nothing, device=None).max_tokens == 256
        assert llm.invoke(prompt, **nothing).content == llm.invoke(prompt).content
        for stop in ("Paris", ["Paris"]):
            assert "Paris" not in llm.invoke(prompt, stop=stop).content
            assert "P" in llm.invoke("Say P P P Paris.", stop="zzz").content
            assert ChatFocusLLM(stop=stop).stop == ["Paris"]

    def test_a_history_with_reasoning(self, llm: ChatFocusLLM) -> None:
        def asked(*blocks: Any) -> Any:
            history = [HumanMessage("What is the capital of Spain?"), AIMessage(list(blocks))]
            return llm.invoke([*history, HumanMessage("And of France?")])

        text = {"type": "text", "text": "Madrid."}
        thoughts = [
            {"type": "reasoning", "reasoning": "Spain..."},
            {"type": "thinking", "thinking": "Spain...", "signature": "x"},
            {"type": "redacted_thinking", "data": "x"},
        ]
        wanted = asked(text)
        for thought in thoughts:
            found = asked(thought, text)
            assert (found.content, found.usage_metadata) == (wanted.content, wanted.usage_metadata)
        assert asked(*thoughts).content

    def test_a_system_message_alone_is_answered(self, llm: ChatFocusLLM) -> None:
        assert llm.invoke([SystemMessage("What is the capital of France?")]).content

    def test_windows_line_ends(self, llm: ChatFocusLLM) -> None:
        rows = "\n".join(f"row {number} holds the key {number * 7919 % 9973:04}" for number in range(500))
        frame = f"What key does row 42 hold?\n-----\n{rows}\n-----\n"
        unix, windows = (llm.invoke(frame.replace("\n", end)) for end in ("\n", "\r\n"))
        assert windows.content == unix.content
        assert windows.usage_metadata["input_token_details"]["cache_creation"] == 0

    def test_tokens_are_counted_by_the_models_tokenizer(self, llm: ChatFocusLLM) -> None:
        assert llm.get_num_tokens("one two three") == 3

    def test_objects_cost_nothing_and_share_one_model(self, llm: ChatFocusLLM) -> None:
        begun = time.perf_counter()
        objects = [ChatFocusLLM(config=SHORT, max_tokens=number + 1) for number in range(300)]
        assert time.perf_counter() - begun < 3
        assert {id(one.focus) for one in objects} == {id(llm.focus)}

    def test_nothing_is_loaded_before_it_is_needed(self) -> None:
        clear_shared_chats()
        fresh = ChatFocusLLM(config=SHORT)
        assert fresh.with_structured_output(Person) is not None
        assert not fresh.focus.is_loaded

    def test_an_engine_of_ones_own(self, llm: ChatFocusLLM) -> None:
        chat = llm.focus.get()
        assert ChatFocusLLM(engine=chat).focus.get() is chat
        assert ChatFocusLLM(engine=chat.engine).focus.get().engine is chat.engine


class TestCopies:
    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
    def test_a_copy_finds_the_loaded_model_again(self, llm: ChatFocusLLM, copied: Any) -> None:
        wanted = llm.invoke("Hi")
        again = copied(llm)
        assert again.focus is llm.focus
        assert again.invoke("Hi").content == wanted.content
        retriever = FocusRetriever.from_documents(Document(page_content=planted("Oslo", "771204")), llm, k=1)
        assert copied(retriever).invoke(question("Oslo")) == retriever.invoke(question("Oslo"))

    def test_a_copy_with_other_settings_has_another_model(self, llm: ChatFocusLLM) -> None:
        llm.invoke("Hi", max_tokens=1)
        assert llm.model_copy(update={"model": "another/model"}).focus is not llm.focus

    def test_an_engine_of_ones_own_is_shared_by_copies_and_not_pickled(self, llm: ChatFocusLLM) -> None:
        own = ChatFocusLLM(engine=llm.focus.get())
        configurable = own.configurable_fields(temperature=ConfigurableField(id="warmth"))
        warmer, _ = configurable.prepare({"configurable": {"warmth": 0.5}})
        for one in (copy.copy(own), copy.deepcopy(own), own.model_copy(update={"temperature": 0.5}), warmer):
            assert one.focus is own.focus
        with pytest.raises(ConfigError, match=r"engine= cannot be pickled.*model="):
            pickle.dumps(own)


class TestCache:
    def test_tells_engines_adapters_and_settings_apart(self, llm: ChatFocusLLM) -> None:
        engine = llm.focus.get().engine
        other = copy.copy(engine.adapter)
        other.weights = {name: weight * 1.01 for name, weight in engine.adapter.weights.items()}
        engines = [
            engine,
            FocusEngine(engine.base, other, engine.config),
            FocusEngine(engine.base, None, engine.config),
            FocusEngine(engine.base, engine.adapter, FocusConfig(chunk_size=128, local_window=256)),
        ]
        models = [ChatFocusLLM(engine=one) for one in engines]
        models += [
            ChatFocusLLM(engine=engine, temperature=0.5),
            ChatFocusLLM(config=SHORT),
            ChatFocusLLM(dtype="float32"),
        ]
        assert len({one._get_llm_string() for one in models}) == len(models)
        assert ChatFocusLLM(engine=engine)._get_llm_string() == models[0]._get_llm_string()

    def test_answers_of_one_model_are_not_anothers(self, llm: ChatFocusLLM) -> None:
        engine = llm.focus.get().engine
        cache = InMemoryCache()
        one = ChatFocusLLM(engine=engine, cache=cache, max_tokens=4)
        two = ChatFocusLLM(engine=FocusEngine(engine.base, None, engine.config), cache=cache, max_tokens=4)
        first, again, others = one.invoke("Hi"), one.invoke("Hi"), two.invoke("Hi")
        assert again.id == first.id or again.response_metadata == first.response_metadata
        assert others.response_metadata["timings"] != first.response_metadata["timings"]


class TestTracing:
    def test_prompts_tokens_and_timings(self, llm: ChatFocusLLM) -> None:
        class Watching(BaseCallbackHandler):
            def __init__(self) -> None:
                self.seen: dict[str, Any] = {"tokens": []}

            def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
                self.seen |= {"prompt": messages[0][0].content, "params": kwargs["invocation_params"]}
                self.seen["metadata"] = kwargs["metadata"]

            def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
                self.seen["tokens"].append(token)

            def on_llm_end(self, response: Any, **kwargs: Any) -> None:
                self.seen["message"] = response.generations[0][0].message

        watching = Watching()
        text = "".join(chunk.content for chunk in llm.stream("Say yes.", config={"callbacks": [watching]}))
        seen = watching.seen
        assert seen["prompt"] == "Say yes."
        assert "".join(seen["tokens"]) == text
        assert seen["message"].usage_metadata["output_tokens"] > 0
        assert seen["message"].response_metadata["timings"]["total"] > 0
        assert seen["metadata"]["ls_provider"] == "focusdoc"
        assert seen["metadata"]["ls_model_name"] == "SmolLM2-135M-Instruct"
        assert seen["params"]["max_tokens"] == 12

    async def test_events_of_a_chain(self, llm: ChatFocusLLM) -> None:
        chain = CHAIN_PROMPT | llm | StrOutputParser()
        events = [event async for event in chain.astream_events({"context": "", "question": "Say yes."}, version="v2")]
        assert {"on_chat_model_start", "on_chat_model_stream", "on_chat_model_end"} <= {
            event["event"] for event in events
        }


class TestThreads:
    def test_eight_threads_over_three_documents_never_mix(self, llm: ChatFocusLLM) -> None:
        texts = {city: planted(city, code, seed=seed, length=1300) for seed, (city, code) in enumerate(CODES.items())}
        chain = CHAIN_PROMPT | llm.bind(max_tokens=8) | StrOutputParser()
        asked = [list(CODES)[number % 3] for number in range(8)]
        inputs = [{"context": texts[city], "question": question(city)} for city in asked]
        answers = chain.batch(inputs, config={"max_concurrency": 8})
        for city, text in zip(asked, answers, strict=True):
            assert CODES[city] in text
            assert not any(code in text for other, code in CODES.items() if other != city)

    async def test_the_event_loop_goes_on_while_the_model_works(self, llm: ChatFocusLLM) -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        begun = time.perf_counter()
        await llm.ainvoke("Tell me a story.", max_tokens=8)
        seconds = time.perf_counter() - begun
        ticking.cancel()
        assert ticks > 5 * seconds  # a hundred a second, where nothing else runs; none at all if it were blocked


class TestCancelling:
    @staticmethod
    def decoders() -> int:
        gc.collect()
        return sum(type(thing) is ParallelDecoder for thing in gc.get_objects())

    def test_a_stream_left_early_frees_its_decoder(self, llm: ChatFocusLLM) -> None:
        stream = llm.stream(planted("Oslo", "771204") + "\n\nQuestion: Which code?", max_tokens=200)
        next(stream)
        assert self.decoders() == 1
        stream.close()  # type: ignore[attr-defined]  # a generator
        del stream
        assert self.decoders() == 0

    async def test_a_cancelled_task_frees_its_decoder(self, llm: ChatFocusLLM) -> None:
        first = asyncio.Event()

        async def consume() -> None:
            async for _ in llm.astream(planted("Oslo", "771204") + "\n\nQuestion: Which code?", max_tokens=200):
                first.set()

        task = asyncio.create_task(consume())
        await first.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(100):  # the thread ends after the token it is at
            if self.decoders() == 0:
                break
            await asyncio.sleep(0.1)
        assert self.decoders() == 0
        assert (await llm.ainvoke("Hello", max_tokens=1)).usage_metadata["output_tokens"] == 1


class Person(BaseModel):
    """A person."""

    name: str
    age: int


class Colour(Enum):
    BLUE = "blue"
    RED = "red"


class Corner(Enum):
    FIRST = (0, 0)


@dataclass
class Painted:
    colour: Literal["blue", "red"]


class Painting(TypedDict):
    """A painting."""

    colour: Literal["blue", "red"]


class TestStructured:
    TOLD = "Ada is 36 years old. Who is it, and how old?"

    @pytest.mark.parametrize("method", ["json_schema", "json_mode", "function_calling"])
    def test_an_answer_is_an_object(self, llm: ChatFocusLLM, method: Any) -> None:
        model = ChatFocusLLM(config=SHORT, max_tokens=40).with_structured_output(Person, method=method)
        assert model.invoke(self.TOLD) == Person(name="Ada", age=36)

    def test_over_a_document(self, llm: ChatFocusLLM) -> None:
        schema = {
            "title": "Code",
            "description": "An access code.",
            "type": "object",
            "properties": {"code": {"type": "string", "pattern": "^[0-9]{6}$"}},
            "required": ["code"],
        }
        chain = CHAIN_PROMPT | ChatFocusLLM(config=SHORT, max_tokens=30).with_structured_output(schema)
        found = chain.invoke({"context": planted("Oslo", "771204"), "question": question("Oslo")})
        assert found.keys() == {"code"}
        assert len(found["code"]) == 6

    def test_with_the_raw_message(self, llm: ChatFocusLLM) -> None:
        model = ChatFocusLLM(config=SHORT, max_tokens=40).with_structured_output(Person, include_raw=True)
        found = model.invoke(self.TOLD)
        assert found["parsed"] == Person.model_validate_json(found["raw"].content)
        assert found["parsing_error"] is None

    def test_any_json_object(self, llm: ChatFocusLLM) -> None:
        message = llm.invoke("Tell me of Ada as JSON.", max_tokens=60, response_format={"type": "json_object"})
        assert isinstance(json.loads(message.content), dict)

    def test_half_an_object_is_an_error_that_names_what_is_missing(self, llm: ChatFocusLLM) -> None:
        short = ChatFocusLLM(config=SHORT, max_tokens=3)
        wanted = r"ended early \(length\) after 3 tokens, before its required 'name' and 'age' came; raise max_tokens"
        with pytest.raises(FocusIncompleteAnswerError, match=wanted) as raised:
            short.with_structured_output(Person).invoke("Who is Ada?")
        assert isinstance(raised.value, OutputParserException)
        assert isinstance(raised.value, IncompleteAnswerError)
        with pytest.raises(FocusIncompleteAnswerError, match="ended early"):
            list(short.with_structured_output(Person).stream("Who is Ada?"))
        for schema in (Person, Person.model_json_schema()):
            found = short.with_structured_output(schema, include_raw=True).invoke("Who is Ada?")
            assert found["parsed"] is None
            assert isinstance(found["parsing_error"], FocusIncompleteAnswerError)
            assert found["raw"].response_metadata["finish_reason"] == "length"

    async def test_a_stop_string_inside_an_object_is_an_error(self, llm: ChatFocusLLM) -> None:
        model = ChatFocusLLM(config=SHORT, max_tokens=40, stop=",").with_structured_output(Person.model_json_schema())
        with pytest.raises(FocusIncompleteAnswerError, match="before its required 'age' came; leave out the stop"):
            await model.ainvoke(self.TOLD)

    @pytest.mark.parametrize(
        ("schema", "wanted"),
        [
            (Colour, Colour.BLUE),
            (Literal["blue", "red"], "blue"),
            (Painted, Painted("blue")),
            (Painting, {"colour": "blue"}),
            (tuple[Literal["blue"]], ("blue",)),
            ({"title": "Colour", "enum": ["blue"]}, "blue"),
            ({"name": "paint", "parameters": Person.model_json_schema() | {"properties": {}, "required": []}}, {}),
        ],
        ids=lambda value: str(value)[:20],
    )
    def test_every_kind_of_schema(self, llm: ChatFocusLLM, schema: Any, wanted: Any) -> None:
        model = ChatFocusLLM(config=SHORT, max_tokens=40).with_structured_output(schema)
        assert model.invoke("The house is blue. What colour is the house?") == wanted

    def test_an_older_pydantic_class(self, llm: ChatFocusLLM) -> None:
        class Older(pydantic.v1.BaseModel):
            age: int

        model = ChatFocusLLM(config=SHORT, max_tokens=40).with_structured_output(Older)
        assert model.invoke(self.TOLD) == Older(age=36)

    def test_objects_on_the_way(self, llm: ChatFocusLLM) -> None:
        model = ChatFocusLLM(config=SHORT, max_tokens=40)
        plain = list(model.with_structured_output(Person.model_json_schema()).stream(self.TOLD))
        assert plain[0] == {}
        assert plain[-1] == {"name": "Ada", "age": 36}
        assert list(model.with_structured_output(Person).stream(self.TOLD))[-1] == Person(name="Ada", age=36)

    def test_what_is_no_schema(self, llm: ChatFocusLLM) -> None:
        for schema in ({"properties": {}}, {"title": "Anything"}, 7, None, Corner):
            with pytest.raises(FocusRequestError, match="schema cannot be used"):
                llm.with_structured_output(schema)
        with pytest.raises(FocusRequestError, match="no setting 'methods'.*Did you mean 'method'"):
            llm.with_structured_output(Person, methods="json_mode")
        with pytest.raises(FocusRequestError, match="method is 'xml'"):
            llm.with_structured_output(Person, method="xml")  # type: ignore[arg-type]
        with pytest.raises(FocusRequestError, match="response_format is 'json'"):
            llm.invoke("Hi", response_format="json")


class TestBadCalls:
    def test_the_errors_are_langchains_own(self) -> None:
        assert issubclass(FocusRequestError, LangChainException)
        assert issubclass(FocusContextOverflowError, ContextOverflowError)
        assert issubclass(FocusRequestError, ValueError)

    @pytest.mark.parametrize("prompt", ["", " \n", [], [SystemMessage(" ")]])
    async def test_empty_prompt(self, llm: ChatFocusLLM, prompt: Any) -> None:
        with pytest.raises(FocusRequestError, match="prompt is empty"):
            llm.invoke(prompt)
        with pytest.raises(FocusRequestError, match="prompt is empty"):
            list(llm.stream(prompt))
        with pytest.raises(FocusRequestError, match="prompt is empty"):
            await llm.ainvoke(prompt)

    def test_messages_of_tools(self, llm: ChatFocusLLM) -> None:
        call = {"name": "add", "args": {}, "id": "1", "type": "tool_call"}
        for message in (
            ToolMessage("4", tool_call_id="1"),
            AIMessage("", tool_calls=[call]),
            ChatMessage(role="critic", content="Bad."),
        ):
            with pytest.raises(FocusRequestError, match="cannot call tools.*role"):
                llm.invoke([HumanMessage("Hi"), message])

    def test_tools(self, llm: ChatFocusLLM) -> None:
        with pytest.raises(NotImplementedError):  # LangChain's own answer for a model that has no tools
            llm.bind_tools([])
        with pytest.raises(FocusRequestError, match="cannot call tools; leave tools= out"):
            llm.invoke("Hi", tools=[{"name": "add"}])

    @pytest.mark.parametrize(
        "block",
        [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
            {"type": "image", "base64": "iVBORw0KGgo=", "mime_type": "image/png"},
            {"type": "audio", "base64": "AAAA", "mime_type": "audio/wav"},
            {"type": "file", "base64": "AAAA", "mime_type": "application/pdf"},
        ],
        ids=lambda block: block["type"],
    )
    def test_images_audio_and_files(self, llm: ChatFocusLLM, block: dict[str, Any]) -> None:
        with pytest.raises(FocusRequestError, match=f"accepts only text.*{block['type']}"):
            llm.invoke([HumanMessage(content=[{"type": "text", "text": "What is this?"}, block])])

    def test_empty_stop_string(self, llm: ChatFocusLLM) -> None:
        with pytest.raises(FocusRequestError, match="stop is.*at least one character"):
            llm.invoke("Hi", stop=[""])

    def test_unknown_setting(self, llm: ChatFocusLLM) -> None:
        wanted = "no setting 'temprature'; it has .*Did you mean 'temperature'"
        for call in (llm.invoke, llm.bind(temprature=1).invoke):
            with pytest.raises(FocusRequestError, match=wanted):
                call("Hi", temprature=1)
        with pytest.raises(ValidationError, match=wanted):
            ChatFocusLLM(temprature=1)

    def test_settings_of_a_model_that_is_loaded_already(self, llm: ChatFocusLLM) -> None:
        with pytest.raises(ValidationError, match="engine= is already loaded, so device= has no effect"):
            ChatFocusLLM(engine=llm.focus.get(), device="cpu")

    def test_half_a_surrogate_pair(self, llm: ChatFocusLLM) -> None:
        with pytest.raises(FocusRequestError, match="half of a surrogate pair at character 3"):
            llm.invoke("Hi \ud83d")
        with pytest.raises(FocusRequestError, match="half of a surrogate pair"):
            llm.get_token_ids("\ud83d")

    def test_setting_out_of_range(self, llm: ChatFocusLLM) -> None:
        with pytest.raises(FocusRequestError, match="max_new_tokens is 0"):
            llm.invoke("Hi", max_tokens=0)
        with pytest.raises(ValidationError, match="temperature"):
            ChatFocusLLM(temperature=-1)

    def test_a_prompt_longer_than_the_memory_can_hold(self, llm: ChatFocusLLM) -> None:
        small = ChatFocusLLM(engine=llm.focus.get().engine, max_memory_bytes=5_000_000)
        with pytest.raises(ContextOverflowError, match=r"have [\d,]+ tokens, but the memory holds .*max_memory_bytes"):
            small.invoke(planted("Oslo", "771204") + "\n\nQuestion: Which code?")
