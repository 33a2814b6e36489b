"""Messages of a conversation, and their token ids in the format that the model knows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from focusdoc.decoding.prompt import begin_of_text, encode_messages, encode_text
from focusdoc.errors import ConfigError
from focusdoc.texts import check_text, unix_lines

ROLES = ("system", "user", "assistant")
#: How a model without a chat template sees who speaks, as in `focusdoc.decoding.prompt.question_prompt`.
_PLAIN = {"system": "", "user": "Question: ", "assistant": "Answer: "}
#: Between the parts of one message, and between merged messages.
_GAP = "\n\n"


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
        return _GAP.join(part for part in self.parts if part)


def check_messages(messages: Sequence[Message]) -> None:
    """Raise ConfigError unless there is something to answer."""
    if not any(message.text.strip() for message in messages):
        raise ConfigError("The prompt is empty; write at least one message with text in it.")


def with_quotes(messages: Sequence[Message], text: str) -> list[Message]:
    """`messages` with passages of the documents in front of the last one's words."""
    *before, last = messages
    return [*before, Message(last.role, (text, *last.parts))]


def encode_conversation(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of a conversation, up to where the model's answer begins.

    Messages of one role in a row become one message, since many templates want roles that take turns. A template
    that knows no system role gets the system's words in front of the user's.
    """
    turns = _merged((message.role, message.text) for message in messages)
    if not getattr(tokenizer, "chat_template", None):
        said = "\n".join(f"{_PLAIN[role]}{text}" for role, text in turns)
        return begin_of_text(tokenizer) + encode_text(tokenizer, f"{said}\nAnswer:")
    try:
        return encode_messages(tokenizer, turns)
    except Exception as error:
        # A template that knows no system role raises jinja2's TemplateError, or drops the message without a word.
        if type(error).__name__ != "TemplateError" and not isinstance(error, ConfigError):
            raise
        return encode_messages(tokenizer, _merged(("user" if role == "system" else role, text) for role, text in turns))


def _merged(turns: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    merged: list[tuple[str, str]] = []
    for role, text in turns:
        if merged and merged[-1][0] == role:
            merged[-1] = (role, _GAP.join((merged[-1][1], text)))
        else:
            merged.append((role, text))
    return merged
