"""Splitting a prompt into local context and memory (FocusLLM, section 3.1).

A framework's prompt is a long text in a frame, with instructions before it and a question after it. The frame must stay
local, and it must not shift the text's chunk grid, or a second question would read everything again. So each long part
of a message is split at line breaks into head, body and tail, and only the body goes to the memory, with its own grid.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from focusdoc.chat.messages import Message
from focusdoc.documents.sentences import SENTENCE_END

#: Most characters of the frame at either end of a long text, about 200 tokens of English. The tail runs behind every
#: chunk for every question, so a longer one would cost as much as reading the text again.
FRAME_CHARACTERS = 800
#: Fewest characters of a tail; a shorter one is not a question (such as "Answer:").
_MIN_TAIL = 16
_RULE = re.compile(
    r"^[ \t]*(?:([-=*_#~])\1{2,}|</?(?:context|documents?|sources?|passages?|text)>)[ \t]*$", re.M | re.I
)
_QUESTION = re.compile(r"^[ \t]*(?:(?:user )?question|query|q)[ \t]*:", re.MULTILINE | re.IGNORECASE)
#: Where to split without a marker, best first: a blank line, a line break, the end of a sentence (any script), a space.
_FALLBACKS = (re.compile("\n\n"), re.compile("\n"), SENTENCE_END, re.compile(" "))

#: Called with a text; returns the longest prefix of it that has a memory, or None.
KnownPrefix = Callable[[str], str | None]


@dataclass(frozen=True)
class SplitPrompt:
    """The messages of the local context, and the texts that go to the memory."""

    local: tuple[Message, ...]
    documents: tuple[str, ...]


def split_prompt(
    messages: Sequence[Message],
    *,
    window: int,
    count: Callable[[str], int],
    known: KnownPrefix,
    per_message: int = 0,
) -> SplitPrompt:
    """Split a conversation that is longer than the local window; a shorter one stays whole.

    First the bodies of long parts go to the memory. If that is not enough, the oldest messages follow as one text,
    until the rest fills at most half the window (so that the next turns can keep the split), then all parts except the
    last one, each as its own text.

    Args:
        window: most tokens of the local context.
        count: counts the tokens of a text.
        known: finds stored prefixes, so that a text is split where it was for an earlier question.
        per_message: tokens that the template adds to each message.
    """

    def size(message: Message) -> int:
        # Counting a book would take seconds.
        return per_message + sum(window + 1 if len(part) > 64 * window else count(part) for part in message.parts)

    if sum(map(size, messages)) <= window:
        return SplitPrompt(tuple(messages), ())
    filled = [(message.role, [part for part in message.parts if part.strip()]) for message in messages]
    filled = [(role, parts) for role, parts in filled if parts]
    if filled and filled[-1][0] != "assistant":
        messages = [Message(role, parts) for role, parts in filled]
    local: list[Message] = []
    documents: list[str] = []
    for message in messages:
        parts: list[str] = []
        for number, part in enumerate(message.parts, start=1):
            is_last = message is messages[-1] and number == len(message.parts)
            head, body, tail = split_text(part, known, asks=is_last, frame=_frame(part, count, window))
            documents += [body] if body.strip() else []
            parts += [head + tail] if head + tail else []
        local.append(Message(message.role, parts))
    sizes = [size(message) for message in local]
    if sum(sizes) > window:
        oldest = _oldest_messages(local, sizes, window, known)
        documents += [_transcript(local[index] for index in oldest)] if oldest else []
        local = [message for index, message in enumerate(local) if index not in oldest]
    if sum(map(size, local)) > window:
        documents += [part for message in local for part in message.parts][:-1]
        local = [Message(local[-1].role, local[-1].parts[-1:])]
    return SplitPrompt(tuple(local), tuple(documents))


def split_text(
    text: str, known: KnownPrefix, *, asks: bool = True, frame: int = FRAME_CHARACTERS
) -> tuple[str, str, str]:
    """Split `text` into head, body and tail, whose concatenation it is; a short text is all head.

    Args:
        asks: whether the text ends with the question; otherwise it may have no tail.
        frame: most characters of the head; a tail after a rule may have twice as many.
    """
    if len(text) <= 3 * frame:
        return text, "", ""
    # After the first rule or blank line.
    if (rule := _RULE.search(text)) is not None and rule.end() < frame:
        start = rule.end() + 1
    else:
        blank = text.find("\n\n", 0, frame)
        start = blank + 2 if blank > 0 else 0
    rest = text[start:]
    end = _tail_start(rest, frame, asks)
    prefix = known(rest)
    if prefix is not None:
        tail = rest[len(prefix) :]
        if len(tail) <= 2 * frame and (tail.strip() or not asks):
            end = len(prefix)
    return text[:start], rest[:end], rest[end:]


def _tail_start(text: str, frame: int, asks: bool) -> int:
    """Where the question at the end of `text` starts.

    At the last rule; else at the last line that starts with "Question:"; else, if it `asks`, at the first blank line,
    line break, sentence or word of the last `frame` characters: a long tail is better than half a question.
    """
    for marker in (_RULE, _QUESTION):
        for match in reversed(list(marker.finditer(text, len(text) - 2 * frame))):
            start = match.end() if marker is _RULE else match.start()
            if len(text[start:].strip()) >= _MIN_TAIL:
                return match.start() - 1 if match.start() else 0  # with the line break before it
    if not asks:
        return len(text)
    for pattern in _FALLBACKS:
        found = pattern.search(text, len(text) - frame)
        if found is not None and len(text[found.start() :].strip()) >= _MIN_TAIL:
            return int(found.end())
    return len(text) - frame


def _oldest_messages(messages: Sequence[Message], sizes: Sequence[int], window: int, known: KnownPrefix) -> list[int]:
    """Indices of the messages that go to the memory, never system messages or the last; as before if possible."""
    movable = [index for index, message in enumerate(messages[:-1]) if message.role != "system"]
    total = sum(sizes)
    stored = known(_transcript(messages[index] for index in movable))
    for end in range(1, len(movable) + 1):
        total -= sizes[movable[end - 1]]
        oldest = movable[:end]
        if total <= window and _transcript(messages[index] for index in oldest) == stored:
            return oldest
    total = sum(sizes)
    for end, index in enumerate(movable):
        if total <= window // 2:
            return movable[:end]
        total -= sizes[index]
    return movable


def _transcript(messages: Iterable[Message]) -> str:
    return "\n".join(f"{message.role}: {message.text}" for message in messages)


def _frame(text: str, count: Callable[[str], int], window: int) -> int:
    """`FRAME_CHARACTERS`, or less if head and tail would fill the window (scripts with many tokens per character)."""
    frame = FRAME_CHARACTERS
    while frame > 1 and max(count(text[:frame]), count(text[-frame:])) > window // 3:
        frame //= 2
    return frame
