"""Messages of a conversation, and their encoding with the model's chat template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from focusdoc.decoding.prompt import GAP, bos_prefix, encode_messages, encode_text, merge_turns
from focusdoc.errors import ConfigError
from focusdoc.texts import check_text, unix_lines

ROLES = ("system", "user", "assistant")
#: Role prefixes for models without a chat template, as in `focusdoc.decoding.prompt.question_prompt`.
_PLAIN = {"system": "", "user": "Question: ", "assistant": "Answer: "}


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: ``"system"``, ``"user"`` or ``"assistant"``.
        parts: its texts, with LF line ends. Each long part has its own memory, so a repeated part is not read again,
            in any order.

    Raises:
        ConfigError: the role is unknown, or a part is not a string.
    """

    role: str
    parts: tuple[str, ...]

    def __init__(self, role: str, parts: str | Iterable[str]) -> None:
        texts = (parts,) if isinstance(parts, str) else tuple(parts)
        if role not in ROLES:
            raise ConfigError(f"The role {role!r} is unknown; use one of {', '.join(ROLES)}.")
        wrong = next((text for text in texts if not isinstance(text, str)), None)
        if wrong is not None:
            raise ConfigError(f"A message has a {type(wrong).__name__} part; this model accepts only text.")
        for text in texts:
            check_text(text, "A message")
        object.__setattr__(self, "role", role)
        object.__setattr__(self, "parts", tuple(map(unix_lines, texts)))

    @property
    def text(self) -> str:
        """All parts as one text."""
        return GAP.join(part for part in self.parts if part)


def encode_conversation(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of a conversation with the prompt for the model's answer; see `encode_messages`."""
    turns = as_turns(messages)
    if not getattr(tokenizer, "chat_template", None):
        text = "\n".join(f"{_PLAIN[role]}{content}" for role, content in turns)
        return bos_prefix(tokenizer) + encode_text(tokenizer, f"{text}\nAnswer:")
    return encode_messages(tokenizer, turns)


def as_turns(messages: Iterable[Message]) -> list[tuple[str, str]]:
    """Messages as (role, content), with consecutive messages of one role merged."""
    return merge_turns((message.role, message.text) for message in messages)
