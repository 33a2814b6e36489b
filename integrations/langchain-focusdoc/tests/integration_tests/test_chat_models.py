"""Memory, sources, threads, cancelling, tracing, structured answers, and everything that can be wrong with a call."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import ContextOverflowError, LangChainException, OutputParserException
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_focusdoc import ChatFocusLLM, FocusContextOverflowError, FocusRequestError
from pydantic import BaseModel, ValidationError
from samples import SHORT, planted

from focusdoc.chat.shared import clear_shared_chats
from focusdoc.decoding.parallel import ParallelDecoder

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
        message = llm.invoke("Tell me of Ada as JSON.", max_tokens=30, response_format={"type": "json_object"})
        assert isinstance(json.loads(message.content), dict)

    def test_half_an_object_is_an_error(self, llm: ChatFocusLLM) -> None:
        model = ChatFocusLLM(config=SHORT, max_tokens=3).with_structured_output(Person)
        with pytest.raises(OutputParserException, match=r"ended early \(length\) after 3 tokens; raise max_tokens"):
            model.invoke("Who is Ada?")
        with pytest.raises(OutputParserException, match="ended early"):
            list(model.stream("Who is Ada?"))

    def test_what_is_no_schema(self, llm: ChatFocusLLM) -> None:
        with pytest.raises(FocusRequestError, match="schema cannot be used"):
            llm.with_structured_output({"properties": {}})
        with pytest.raises(FocusRequestError, match="method is 'xml'"):
            llm.with_structured_output(Person, method="xml")  # type: ignore[arg-type]
        with pytest.raises(FocusRequestError, match="response_format is 'json'"):
            llm.invoke("Hi", response_format="json")


class TestBadCalls:
    def test_the_errors_are_langchains_own(self) -> None:
        assert issubclass(FocusRequestError, LangChainException)
        assert issubclass(FocusContextOverflowError, ContextOverflowError)
        assert issubclass(FocusRequestError, ValueError)

    @pytest.mark.parametrize("prompt", ["", " \n", [], [SystemMessage("Be brief.")]])
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
        with pytest.raises(FocusRequestError, match=f"reads text alone.*{block['type']}"):
            llm.invoke([HumanMessage(content=[{"type": "text", "text": "What is this?"}, block])])

    def test_empty_stop_string(self, llm: ChatFocusLLM) -> None:
        with pytest.raises(FocusRequestError, match="stop is.*at least one character"):
            llm.invoke("Hi", stop=[""])

    def test_unknown_setting(self, llm: ChatFocusLLM) -> None:
        with pytest.raises(FocusRequestError, match="no setting 'temprature'; it has .*temperature"):
            llm.invoke("Hi", temprature=1)
        with pytest.raises(ValidationError, match="temprature"):
            ChatFocusLLM(temprature=1)

    def test_setting_out_of_range(self, llm: ChatFocusLLM) -> None:
        with pytest.raises(FocusRequestError, match="max_new_tokens is 0"):
            llm.invoke("Hi", max_tokens=0)
        with pytest.raises(ValidationError, match="temperature"):
            ChatFocusLLM(temperature=-1)

    def test_a_prompt_longer_than_the_memory_can_hold(self, llm: ChatFocusLLM) -> None:
        small = ChatFocusLLM(engine=llm.focus.get().engine, max_memory_bytes=5_000_000)
        with pytest.raises(ContextOverflowError, match=r"take [\d,]+ tokens, but the memory holds .*max_memory_bytes"):
            small.invoke(planted("Oslo", "771204") + "\n\nQuestion: Which code?")
