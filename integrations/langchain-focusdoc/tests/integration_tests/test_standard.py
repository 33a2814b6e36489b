"""LangChain's own integration tests, on the real default model.

Tools, images, audio and files are what the model cannot do; the suite skips their tests by the properties that say so.
"""

from __future__ import annotations

from typing import Any, Literal

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_focusdoc import ChatFocusLLM
from langchain_tests.integration_tests import ChatModelIntegrationTests
from samples import SHORT, planted


@pytest.mark.usefixtures("llm")
class TestChatFocusLLM(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatFocusLLM

    @property
    def chat_model_params(self) -> dict[str, Any]:
        # Without a penalty the small model tells its jokes without end, which is an error.
        return {"config": SHORT, "max_tokens": 96, "repetition_penalty": 1.2}

    @property
    def has_tool_calling(self) -> bool:
        return False

    @property
    def has_structured_output(self) -> bool:
        return True

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "json_schema"}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "SmolLM2-135M-Instruct"

    @property
    def supported_usage_metadata_details(
        self,
    ) -> dict[
        Literal["invoke", "stream"],
        list[Literal["audio_input", "audio_output", "reasoning_output", "cache_read_input", "cache_creation_input"]],
    ]:
        return {
            "invoke": ["cache_read_input", "cache_creation_input"],
            "stream": ["cache_read_input", "cache_creation_input"],
        }

    def invoke_with_cache_creation_input(self, *, stream: bool = False) -> AIMessage:
        return self._ask(planted("Oslo", "771204"), stream)

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        self._ask(planted("Riga", "640275"), stream)
        message = self._ask(planted("Riga", "640275"), stream)
        assert message.usage_metadata is not None
        assert message.usage_metadata["input_token_details"]["cache_read"] > 400
        return message

    def _ask(self, text: str, stream: bool) -> AIMessage:
        model = ChatFocusLLM(**{**self.chat_model_params, "max_tokens": 2})
        prompt = f"{text}\n\nQuestion: What is the access code?"
        if not stream:
            return model.invoke(prompt)
        first, *rest = model.stream(prompt)
        return sum(rest, first)
