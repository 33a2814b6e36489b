"""Tracing, threads, cancelling, structured answers, and everything that can be wrong with a call."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from typing import Any

import pytest
from conftest import SHORT, planted
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers.base import BaseEventHandler
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.focusdoc import FocusLLM
from pydantic import BaseModel

from focusdoc.decoding.parallel import ParallelDecoder

QUESTION = "\n\nQuestion: What is the access code?\nAnswer:"


def test_token_counting_handler_counts_what_the_model_counts(llm: FocusLLM) -> None:
    counter = TokenCountingHandler()
    llm.callback_manager = CallbackManager([counter])
    usage = llm.chat([ChatMessage(role="user", content="Hello")], max_tokens=4).raw["usage"]
    assert counter.prompt_llm_token_count == usage["prompt_tokens"]
    assert counter.completion_llm_token_count == usage["completion_tokens"] == 4


async def test_the_dispatcher_sees_every_way_begin_and_end(llm: FocusLLM) -> None:
    seen: list[str] = []

    class Watching(BaseEventHandler):
        def handle(self, event: Any, **_: Any) -> None:
            seen.append(type(event).__name__)

    dispatcher = get_dispatcher()
    watching = Watching()
    dispatcher.add_event_handler(watching)
    try:
        await llm.achat([ChatMessage(role="user", content="Hello")], max_tokens=2)
        for _ in llm.stream_complete("Hello", max_tokens=2):
            pass
    finally:
        dispatcher.event_handlers.remove(watching)
    assert seen[0] == "LLMChatStartEvent"
    for name in ("LLMChatEndEvent", "LLMCompletionStartEvent", "LLMCompletionInProgressEvent", "LLMCompletionEndEvent"):
        assert name in seen


def test_eight_threads_over_three_documents_never_mix(llm: FocusLLM) -> None:
    codes = {"Oslo": "771204", "Riga": "640275", "Lima": "105938"}
    texts = {city: planted(city, code, seed=seed, length=1300) for seed, (city, code) in enumerate(codes.items())}
    found: list[tuple[str, str]] = []

    def ask(city: str) -> None:
        prompt = f"{texts[city]}\n\nQuestion: What is the access code of {city}?\nAnswer:"
        found.append((city, llm.complete(prompt, max_tokens=8).text))

    threads = [threading.Thread(target=ask, args=(list(codes)[number % 3],)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for city, text in found:
        assert codes[city] in text
        assert not any(code in text for other, code in codes.items() if other != city)


async def test_the_event_loop_goes_on_while_the_model_works(llm: FocusLLM) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    begun = time.perf_counter()
    await llm.acomplete("Tell me a story.", max_tokens=8)
    seconds = time.perf_counter() - begun
    ticking.cancel()
    assert ticks > 5 * seconds  # a hundred a second, where nothing else runs; none at all if the loop were blocked


class TestCancelling:
    @staticmethod
    def decoders() -> int:
        gc.collect()
        return sum(type(thing) is ParallelDecoder for thing in gc.get_objects())

    def test_a_stream_left_early_frees_its_decoder(self, llm: FocusLLM) -> None:
        stream = llm.stream_complete(planted("Oslo", "771204") + QUESTION, max_tokens=200)
        next(stream)
        assert self.decoders() == 1
        stream.close()
        del stream
        assert self.decoders() == 0

    async def test_a_cancelled_task_frees_its_decoder(self, llm: FocusLLM) -> None:
        first = asyncio.Event()

        async def consume() -> None:
            async for _ in await llm.astream_complete(planted("Oslo", "771204") + QUESTION, max_tokens=200):
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
        assert (await llm.acomplete("Hello", max_tokens=1)).raw["usage"]["completion_tokens"] == 1

    def test_an_event_ends_an_answer(self, llm: FocusLLM) -> None:
        cancel = threading.Event()
        taken = []
        for response in llm.stream_complete("Tell me a long story.", max_tokens=100, cancel=cancel):
            taken.append(response)
            cancel.set()
        assert taken[-1].raw["finish_reason"] == "cancelled"
        assert taken[-1].raw["usage"]["completion_tokens"] < 100


class Person(BaseModel):
    """A person."""

    name: str
    age: int


class TestStructured:
    async def test_an_answer_is_an_object(self, llm: FocusLLM) -> None:
        prompt = PromptTemplate("Ada is 36 years old. Who is {name}, and how old?")
        person = llm.structured_predict(Person, prompt, {"max_tokens": 40}, name="Ada")
        assert isinstance(person, Person)
        assert person == await llm.astructured_predict(Person, prompt, {"max_tokens": 40}, name="Ada")
        assert (person.name, person.age) == ("Ada", 36)

    def test_half_an_object_is_an_error(self, llm: FocusLLM) -> None:
        with pytest.raises(ValueError, match=r"Person ended early \(length\).*raise max_new_tokens"):
            llm.structured_predict(Person, PromptTemplate("Who is Ada?"), {"max_tokens": 3})


class TestBadCalls:
    """LlamaIndex's models raise ValueError for all of these, so this one does."""

    @pytest.mark.parametrize("prompt", ["", " \n"])
    async def test_empty_prompt(self, llm: FocusLLM, prompt: str) -> None:
        message = [ChatMessage(role="user", content=prompt)]
        with pytest.raises(ValueError, match="prompt is empty"):
            llm.complete(prompt)
        with pytest.raises(ValueError, match="prompt is empty"):
            llm.complete(prompt, formatted=True)
        with pytest.raises(ValueError, match="prompt is empty"):
            llm.stream_chat(message)
        with pytest.raises(ValueError, match="prompt is empty"):
            await llm.astream_chat(message)
        with pytest.raises(ValueError, match="prompt is empty"):
            await llm.acomplete(prompt)

    def test_no_messages(self, llm: FocusLLM) -> None:
        with pytest.raises(ValueError, match="prompt is empty"):
            llm.chat([])

    @pytest.mark.parametrize("role", [MessageRole.TOOL, MessageRole.FUNCTION])
    def test_messages_of_tools(self, llm: FocusLLM, role: MessageRole) -> None:
        with pytest.raises(ValueError, match=f"cannot call tools.*{role.value}"):
            llm.chat([ChatMessage(role=role, content="4")])

    def test_messages_that_call_tools(self, llm: FocusLLM) -> None:
        with pytest.raises(ValueError, match="cannot call tools"):
            llm.chat([ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": [{"id": "1"}]})])

    def test_tools(self, llm: FocusLLM) -> None:
        with pytest.raises(ValueError, match="cannot call tools; leave tools= out"):
            llm.chat([ChatMessage(role="user", content="Hi")], tools=[{"name": "add"}])

    def test_images(self, llm: FocusLLM) -> None:
        with pytest.raises(ValueError, match="reads text alone.*ImageBlock"):
            llm.chat([ChatMessage(role="user", blocks=[ImageBlock(image=b"iVBORw0KGgo=")])])

    def test_empty_stop_string(self, llm: FocusLLM) -> None:
        with pytest.raises(ValueError, match="stop is.*at least one character"):
            llm.complete("Hi", stop=[""])

    def test_unknown_setting(self, llm: FocusLLM) -> None:
        with pytest.raises(ValueError, match=r"no setting 'temprature'; it has .*temperature"):
            llm.complete("Hi", temprature=1)

    def test_setting_out_of_range(self, llm: FocusLLM) -> None:
        with pytest.raises(ValueError, match="max_new_tokens is 0"):
            llm.complete("Hi", max_tokens=0)
        with pytest.raises(ValueError, match="max_new_tokens"):
            FocusLLM(max_new_tokens=0)

    def test_a_prompt_longer_than_the_memory_can_hold(self, llm: FocusLLM) -> None:
        small = FocusLLM(engine=llm.focus.get().engine, max_memory_bytes=5_000_000)
        assert small.metadata.context_window < 500
        with pytest.raises(ValueError, match=r"take [\d,]+ tokens, but the memory holds .*raise max_memory_bytes"):
            small.complete(planted("Oslo", "771204") + QUESTION)

    def test_a_model_that_is_not_there(self, tmp_path: Any) -> None:
        from focusdoc.errors import ModelNotFoundError

        with pytest.raises(ModelNotFoundError, match="cannot be loaded"):
            FocusLLM(model=str(tmp_path / "missing"), config=SHORT).complete("Hi")
