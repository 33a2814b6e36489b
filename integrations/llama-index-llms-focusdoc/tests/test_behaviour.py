"""Tracing, threads, cancelling, structured answers, and everything that can be wrong with a call."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import threading
import time
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import pytest
from conftest import SHORT, planted
from llama_index.core import Document
from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
)
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers.base import BaseEventHandler
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.focusdoc import FocusLLM, FocusQueryEngine, FocusSynthesizer
from pydantic import BaseModel

from focusdoc.decoding.parallel import ParallelDecoder
from focusdoc.errors import ConfigError, FocusdocError, IncompleteAnswerError

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


class TestCopies:
    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
    def test_a_copy_finds_the_loaded_model_again(self, llm: FocusLLM, copied: Any) -> None:
        wanted = llm.complete("Hi")
        again = copied(llm)
        assert again.focus is llm.focus
        assert again.complete("Hi").text == wanted.text
        engine = FocusQueryEngine.from_documents(Document(text=planted("Oslo", "771204")), llm)
        assert str(copied(engine).query("Which code?")) == str(engine.query("Which code?"))
        assert copied(FocusSynthesizer(llm)).get_response("Who?", ["Ada."])

    def test_an_engine_of_ones_own_is_shared_by_copies_and_not_pickled(self, llm: FocusLLM) -> None:
        own = FocusLLM(engine=llm.focus.get())
        assert copy.deepcopy(own).focus.get() is own.focus.get()
        for one in (own, FocusQueryEngine.from_documents([Document(text="One.")], own), FocusSynthesizer(own)):
            with pytest.raises(ConfigError, match=r"engine= cannot be pickled.*model="):
                pickle.dumps(one)


def test_none_is_the_default_and_a_stop_string_may_stand_alone(llm: FocusLLM) -> None:
    nothing = dict.fromkeys(("max_new_tokens", "temperature", "stop", "max_sources", "generate_kwargs", "device"))
    assert FocusLLM(**nothing).max_new_tokens == 256
    assert llm.complete("Hi", max_tokens=None, temperature=None, stop=None, top_p=None).text == llm.complete("Hi").text
    assert FocusLLM(stop="Paris").stop == ["Paris"]
    prompt = "What is the capital of France?"
    for stop in ("Paris", ["Paris"]):
        assert "Paris" not in llm.complete(prompt, stop=stop).text
    assert (
        FocusLLM(config=SHORT, generate_kwargs={"max_tokens": 2, "top_p": None})
        .complete(prompt)
        .raw["usage"]["completion_tokens"]
        == 2
    )


def test_a_history_with_reasoning(llm: FocusLLM) -> None:
    def asked(*blocks: Any) -> Any:
        history = [
            ChatMessage(role="user", content="The capital of Spain?"),
            ChatMessage(role="assistant", blocks=blocks),
        ]
        return llm.chat([*history, ChatMessage(role="user", content="And of France?")])

    text, thought = TextBlock(text="Madrid."), ThinkingBlock(content="Spain...")
    mark = CachePoint(cache_control={"type": "ephemeral"})
    assert asked(thought, text, mark).raw["usage"]["prompt_tokens"] == asked(text).raw["usage"]["prompt_tokens"]
    assert asked(thought).message.content


def test_a_system_message_alone_is_answered(llm: FocusLLM) -> None:
    assert llm.chat([ChatMessage(role="system", content="What is the capital of France?")]).message.content


def test_windows_line_ends(llm: FocusLLM) -> None:
    rows = "\n".join(f"row {number} holds the key {number * 7919 % 9973:04}" for number in range(500))
    frame = f"What key does row 42 hold?\n-----\n{rows}\n-----\n"
    unix, windows = (llm.complete(frame.replace("\n", end)) for end in ("\n", "\r\n"))
    assert windows.text == unix.text
    assert windows.raw["usage"]["encoded_tokens"] == 0


class Colour(Enum):
    BLUE = "blue"
    RED = "red"


@dataclass
class Painted:
    colour: Literal["blue", "red"]


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
        wanted = (
            r"ended early \(length\) after 3 tokens, before its required 'name' and 'age' came; raise max_new_tokens"
        )
        with pytest.raises(IncompleteAnswerError, match=wanted) as raised:
            llm.structured_predict(Person, PromptTemplate("Who is Ada?"), {"max_tokens": 3})
        assert isinstance(raised.value, ValueError)

    @pytest.mark.parametrize(
        ("kind", "wanted"),
        [
            (Colour, Colour.BLUE),
            (Painted, Painted("blue")),
            (Literal["blue", "red"], "blue"),
            (tuple[Literal["blue"]], ("blue",)),
        ],
    )
    def test_every_kind_of_type(self, llm: FocusLLM, kind: Any, wanted: Any) -> None:
        prompt = PromptTemplate("The house is blue. What colour is the house?")
        assert llm.structured_predict(kind, prompt) == wanted

    def test_what_is_no_type_of_answers(self, llm: FocusLLM) -> None:
        with pytest.raises(ValueError, match="schema cannot be used"):
            llm.structured_predict(len, PromptTemplate("Hi"))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="schema cannot be used"):
            FocusSynthesizer(llm, output_cls=len)


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
        with pytest.raises(ValueError, match="accepts only text.*ImageBlock"):
            llm.chat([ChatMessage(role="user", blocks=[ImageBlock(image=b"iVBORw0KGgo=")])])

    def test_empty_stop_string(self, llm: FocusLLM) -> None:
        with pytest.raises(ValueError, match="stop is.*at least one character"):
            llm.complete("Hi", stop=[""])

    def test_unknown_setting(self, llm: FocusLLM) -> None:
        wanted = r"no setting 'temprature'; it has .*Did you mean 'temperature'"
        documents = [Document(text="One.")]
        for call in (
            lambda: llm.complete("Hi", temprature=1),
            lambda: llm.chat([ChatMessage(role="user", content="Hi")], temprature=1),
            lambda: FocusLLM(temprature=1),
            lambda: FocusLLM(generate_kwargs={"temprature": 1}),
            lambda: FocusSynthesizer(llm).get_response("Who?", ["One."], temprature=1),
            lambda: llm.structured_predict(Person, PromptTemplate("Who?"), {"temprature": 1}),
        ):
            with pytest.raises(ValueError, match=wanted):
                call()
        with pytest.raises(ValueError, match="no setting 'max_source'.*Did you mean 'max_sources'"):
            FocusQueryEngine.from_documents(documents, llm, max_source=1)
        with pytest.raises(ValueError, match="no setting 'stream'.*Did you mean 'streaming'"):
            FocusSynthesizer(llm, stream=True)

    def test_settings_of_a_model_that_is_loaded_already(self, llm: FocusLLM) -> None:
        with pytest.raises(ValueError, match="engine= is already loaded, so device= has no effect"):
            FocusLLM(engine=llm.focus.get(), device="cpu")

    def test_half_a_surrogate_pair(self, llm: FocusLLM) -> None:
        half = "Hi \ud83d"
        for call in (
            lambda: llm.complete(half),
            lambda: llm.complete(half, formatted=True),
            lambda: llm.chat([ChatMessage(role="user", content=half)]),
            lambda: llm.tokenizer(half),
            lambda: FocusQueryEngine.from_documents([Document(text=half)], llm),
            lambda: FocusSynthesizer(llm).get_response("Who?", [half]),
        ):
            with pytest.raises(FocusdocError, match="half of a surrogate pair at character 3"):
                call()

    def test_setting_out_of_range(self, llm: FocusLLM) -> None:
        with pytest.raises(ValueError, match="max_new_tokens is 0"):
            llm.complete("Hi", max_tokens=0)
        with pytest.raises(ValueError, match="max_new_tokens"):
            FocusLLM(max_new_tokens=0)

    def test_a_prompt_longer_than_the_memory_can_hold(self, llm: FocusLLM) -> None:
        small = FocusLLM(engine=llm.focus.get().engine, max_memory_bytes=5_000_000)
        assert small.metadata.context_window < 500
        with pytest.raises(ValueError, match=r"have [\d,]+ tokens, but the memory holds .*raise max_memory_bytes"):
            small.complete(planted("Oslo", "771204") + QUESTION)

    def test_a_model_that_is_not_there(self, tmp_path: Any) -> None:
        from focusdoc.errors import ModelNotFoundError

        with pytest.raises(ModelNotFoundError, match="cannot be loaded"):
            FocusLLM(model=str(tmp_path / "missing"), config=SHORT).complete("Hi")
