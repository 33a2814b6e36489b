"""Every way of calling FocusLLM: complete and chat, whole and streamed, blocking and in coroutines."""

from __future__ import annotations

import time
from typing import Any

import pytest
from conftest import SHORT, planted
from llama_index.core import Settings
from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock
from llama_index.core.llms import LLM
from llama_index.core.llms.custom import CustomLLM
from llama_index.llms.focusdoc import FocusLLM

from focusdoc.chat.shared import clear_shared_chats

PROMPT = "What is the capital of France?"
MESSAGES = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content=PROMPT)]
#: A fact that the shipped adapter reads right (of Oslo it read 871204): here it is agreement that is tested.
LONG = f"{planted('Lima', '771204')}\n\nQuestion: What is the access code of Lima?\nAnswer:"


async def every_way(llm: FocusLLM, prompt: str, messages: list[ChatMessage]) -> dict[str, Any]:
    """The responses of all eight ways; of a stream, its list."""
    return {
        "complete": llm.complete(prompt),
        "acomplete": await llm.acomplete(prompt),
        "stream_complete": list(llm.stream_complete(prompt)),
        "astream_complete": [item async for item in await llm.astream_complete(prompt)],
        "chat": llm.chat(messages),
        "achat": await llm.achat(messages),
        "stream_chat": list(llm.stream_chat(messages)),
        "astream_chat": [item async for item in await llm.astream_chat(messages)],
    }


def text_of(response: Any) -> str:
    return response.text if hasattr(response, "text") else response.message.content


@pytest.mark.parametrize(("prompt", "wanted"), [(PROMPT, "Paris"), (LONG, "771204")], ids=["short", "long"])
async def test_all_ways_agree(llm: FocusLLM, prompt: str, wanted: str) -> None:
    found = await every_way(llm, prompt, [ChatMessage(role="user", content=prompt)])
    last = {name: one[-1] if isinstance(one, list) else one for name, one in found.items()}
    assert wanted in last["complete"].text
    assert len({text_of(one) for one in last.values()}) == 1
    for name, responses in found.items():
        if isinstance(responses, list):
            assert len(responses) > 1, name
            assert "".join(one.delta for one in responses) == text_of(responses[-1])
            assert [text_of(one) for one in responses] == [
                "".join(one.delta for one in responses[: count + 1]) for count in range(len(responses))
            ]
    for name, response in last.items():
        usage = response.raw["usage"]
        assert usage["completion_tokens"] > 0, name
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        assert usage["cached_tokens"] + usage["encoded_tokens"] == usage["document_tokens"]
        assert response.raw["timings"]["total"] > 0
        assert bool(response.additional_kwargs["sources"]) == (prompt == LONG)
    # Eight calls over one text: the first read it, the others found it.
    encoded = [one.raw["usage"]["encoded_tokens"] for one in last.values()]
    assert encoded[1:] == [0] * 7
    assert (encoded[0] > 0) == (prompt == LONG)


def test_sources_quote_the_prompt(llm: FocusLLM) -> None:
    top = llm.complete(LONG).additional_kwargs["sources"][0]
    assert "771204" in top["text"]
    assert top["text"] in LONG
    assert 0 < top["score"] <= 1


def test_the_answer_is_an_assistants(llm: FocusLLM) -> None:
    assert llm.chat(MESSAGES).message.role == MessageRole.ASSISTANT


def test_blocks_of_text_are_parts_known_again_in_any_order(llm: FocusLLM) -> None:
    texts = [planted("Oslo", "771204"), planted("Riga", "640275", seed=3)]
    question = TextBlock(text="What is the access code of Riga?")

    def ask(parts: list[str]) -> Any:
        return llm.chat([ChatMessage(role="user", blocks=[*(TextBlock(text=text) for text in parts), question])])

    assert ask(texts).raw["usage"]["encoded_tokens"] > 0
    assert ask(texts[::-1]).raw["usage"]["encoded_tokens"] == 0


def test_settings_of_object_and_call(llm: FocusLLM) -> None:
    assert llm.complete(PROMPT, max_tokens=2).raw["usage"]["completion_tokens"] == 2
    assert "Paris" not in llm.complete(PROMPT, stop=["Paris"]).text
    once, again = (llm.complete(PROMPT, temperature=1.5, seed=7).text for _ in range(2))
    assert once == again
    assert FocusLLM(config=SHORT, stop=["Paris"], max_new_tokens=12).complete(PROMPT).text == (
        llm.complete(PROMPT, stop=["Paris"]).text
    )


def test_a_formatted_prompt_is_continued_as_it_stands(llm: FocusLLM) -> None:
    assert "four" in llm.complete("one, two, three,", formatted=True).text


def test_metadata(llm: FocusLLM) -> None:
    metadata = llm.metadata
    chat = llm.focus.get()
    assert metadata.context_window == chat.max_tokens + 256 > 100_000
    assert (metadata.num_output, metadata.is_chat_model, metadata.is_function_calling_model) == (12, True, False)
    assert metadata.model_name == "SmolLM2-135M-Instruct"


def test_settings_round_trip(llm: FocusLLM) -> None:
    before = Settings._llm
    try:
        Settings.llm = llm
        assert Settings.llm is llm
        Settings.tokenizer = llm.tokenizer
        assert len(Settings.tokenizer("one two three")) == 3
    finally:
        Settings._llm, Settings._tokenizer = before, None


def test_is_a_llama_index_model() -> None:
    assert "CustomLLM" in [base.__name__ for base in FocusLLM.__mro__]
    assert issubclass(FocusLLM, LLM)
    assert issubclass(FocusLLM, CustomLLM)
    assert FocusLLM.class_name() == "FocusLLM"


def test_objects_cost_nothing_and_share_one_model(llm: FocusLLM) -> None:
    begun = time.perf_counter()
    objects = [FocusLLM(config=SHORT, max_new_tokens=number + 1) for number in range(100)]
    assert time.perf_counter() - begun < 2
    assert {id(one.focus) for one in objects} == {id(llm.focus)}
    assert not FocusLLM(model="another/model").focus.is_loaded


def test_nothing_is_loaded_before_it_is_needed() -> None:
    clear_shared_chats()
    fresh = FocusLLM(config=SHORT)
    assert not fresh.focus.is_loaded
    fresh.to_dict()
    assert not fresh.focus.is_loaded


def test_state_survives_a_round_trip_as_a_dictionary(llm: FocusLLM) -> None:
    again = FocusLLM.from_dict(llm.to_dict())
    assert again.config == llm.config
    assert again.focus is llm.focus


def test_an_engine_of_ones_own(llm: FocusLLM) -> None:
    chat = llm.focus.get()
    assert FocusLLM(engine=chat).focus.get() is chat
    assert FocusLLM(engine=chat.engine).focus.get().engine is chat.engine
