"""What a text must be, wherever one comes in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from focusdoc import Chat, Document, FocusEngine, Message, Page
from focusdoc.decoding.prompt import question_prompt
from focusdoc.errors import ConfigError, FocusdocError
from focusdoc.modeling.base import BaseModel
from focusdoc.texts import unix_lines
from tiny_models import tiny_model

HALF = "a smile \ud83d"


@pytest.fixture(scope="module")
def chat(tiny_tokenizer: Any) -> Chat:
    base = BaseModel(tiny_model("llama", vocab_size=len(tiny_tokenizer)), tiny_tokenizer, "tiny")
    return Chat(FocusEngine(base, None), max_memory_bytes=1_000_000)


WAYS: dict[str, Callable[[Chat], Any]] = {
    "document": lambda chat: Document.from_text(HALF),
    "document of pages": lambda chat: Document(HALF, (Page(1, None, 0, len(HALF)),)),
    "message": lambda chat: chat.stream([Message("user", HALF)]),
    "text to continue": lambda chat: chat.continue_text(HALF),
    "question to documents": lambda chat: chat.ask([Document.from_text("One.")], HALF),
    "question": lambda chat: question_prompt(chat.engine.base.tokenizer, HALF),
    "text to count": lambda chat: chat.count(HALF),
}


@pytest.mark.parametrize("way", WAYS)
def test_half_a_surrogate_pair_is_refused_with_its_place_and_the_remedy(chat: Chat, way: str) -> None:
    with pytest.raises(FocusdocError, match=r"half of a surrogate pair at character 8, .*right encoding"):
        WAYS[way](chat)


def test_what_a_user_asks_is_a_config_error(chat: Chat) -> None:
    with pytest.raises(ConfigError):
        chat.encode(HALF)


def test_the_remedy_makes_a_text_of_it(chat: Chat) -> None:
    assert chat.count(HALF.encode("utf-8", "ignore").decode("utf-8")) > 0


def test_all_line_ends_become_one_kind() -> None:
    assert unix_lines("a\r\nb\rc\nd\r\n\r\ne\n\rf") == "a\nb\nc\nd\n\ne\n\nf"
