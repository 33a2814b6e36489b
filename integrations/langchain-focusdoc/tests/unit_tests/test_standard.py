"""LangChain's own unit tests of a chat model. They load no weights."""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_focusdoc import ChatFocusLLM
from langchain_tests.unit_tests import ChatModelUnitTests


class TestChatFocusLLM(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatFocusLLM

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {}
