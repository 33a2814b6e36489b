"""Messages of a conversation, and their token ids in the format that the model knows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from focusdoc.decoding.prompt import GAP, bos_prefix, encode_messages, encode_text, merge_turns
from focusdoc.errors import ConfigError
from focusdoc.texts import check_text, unix_lines

ROLES = ("system", "user", "assistant")
#: How a model without a chat template sees who speaks, as in `focusdoc.decoding.prompt.question_prompt`.
_PLAIN = {"system": "", "user": "Question: ", "assistant": "Answer: "}


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: ``"system"``, ``"user"`` or ``"assistant"``.
        parts: its texts, every line end as LF. A long part is remembered on a grid of its own, so parts that come
            again, in whatever order, are not read again.

    Raises:
        ConfigError: another role, or a part that is no text.
    """

    role: str
    parts: tuple[str, ...]

    def __init__(self, role: str, parts: str | Iterable[str]) -> None:
        texts = (parts,) if isinstance(parts, str) else tuple(parts)
        if role not in ROLES:
            raise ConfigError(f"The role {role!r} is unknown; use one of {', '.join(ROLES)}.")
        wrong = next((text for text in texts if not isinstance(text, str)), None)
        if wrong is not None:
            raise ConfigError(f"A message holds a {type(wrong).__name__}; this model reads text alone.")
        for text in texts:
            check_text(text, "A message")
        object.__setattr__(self, "role", role)
        object.__setattr__(self, "parts", tuple(map(unix_lines, texts)))

    @property
    def text(self) -> str:
        """All parts as one text."""
        return GAP.join(part for part in self.parts if part)


def check_messages(messages: Sequence[Message]) -> None:
    """Raise ConfigError unless there is something to answer."""
    if not any(message.text.strip() for message in messages):
        raise ConfigError("The prompt is empty; write at least one message with text in it.")


def with_quotes(messages: Sequence[Message], text: str) -> list[Message]:
    """`messages` with passages of the documents in front of the last one's words."""
    *before, last = messages
    return [*before, Message(last.role, (text, *last.parts))]


def encode_conversation(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of a conversation, up to where the model's answer begins; see `encode_messages`."""
    turns = as_turns(messages)
    if not getattr(tokenizer, "chat_template", None):
        said = "\n".join(f"{_PLAIN[role]}{text}" for role, text in turns)
        return bos_prefix(tokenizer) + encode_text(tokenizer, f"{said}\nAnswer:")
    return encode_messages(tokenizer, turns)


def as_turns(messages: Iterable[Message]) -> list[tuple[str, str]]:
    """Messages as (role, content), those of one role in a row as one."""
    return merge_turns((message.role, message.text) for message in messages)
