"""The tail rule for prompts: what stays in the local context, and what goes to the memory (FocusLLM, section 3.1).

A prompt of the frameworks is a long text in a frame: instructions before it, a question behind it. The frame must
stay local, and it must not move the text's chunks, or a second question would read everything again. So each long
part of a message is cut at its own line breaks into head, body and tail. The body alone goes to the memory, on a grid
that begins with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from focusdoc.chat.messages import Message

#: Characters at either end of a long text that may be frame. About 200 tokens of English: every chunk reads the
#: local context's tail with every question, so a longer one costs as much as reading the text again.
FRAME_CHARACTERS = 800
#: Behind a cut there must be at least this much, or it is no question ("Answer:" alone).
_SHORTEST_TAIL = 16
_RULE = re.compile(
    r"^[ \t]*(?:([-=*_#~])\1{2,}|</?(?:context|documents?|sources?|passages?|text)>)[ \t]*$", re.M | re.I
)
_ASKED = re.compile(r"^[ \t]*(?:(?:user )?question|query|q)[ \t]*:", re.MULTILINE | re.IGNORECASE)
_WEAKER_CUTS = ("\n\n", "\n", ". ", " ")

#: Finds the longest text that the memory holds and that the given text begins with; None if there is none.
KnownBeginning = Callable[[str], str | None]


@dataclass(frozen=True)
class SplitPrompt:
    """What the model sees in full, and the texts that it gets through candidates."""

    local: tuple[Message, ...]
    documents: tuple[str, ...]


def split_prompt(
    messages: Sequence[Message], *, window: int, count: Callable[[str], int], known: KnownBeginning
) -> SplitPrompt:
    """Split a conversation that is longer than the local window; a shorter one stays whole.

    Long parts give their bodies. Where that is not enough, whole parts go: first the oldest messages, as one text,
    until what is left fills at most half the window (so that the next turns leave the cut where it is), then the
    parts in front of the last one of all, each on its own.

    Args:
        window: tokens that may stay local, without the template's own.
        count: tokens of a text.
        known: keeps a body's end where it was for an earlier question.
    """
    if sum(_count(part, count, window) for message in messages for part in message.parts) <= window:
        return SplitPrompt(tuple(messages), ())
    local: list[Message] = []
    documents: list[str] = []
    for message in messages:
        parts: list[str] = []
        for number, part in enumerate(message.parts, start=1):
            is_last = message is messages[-1] and number == len(message.parts)
            head, body, tail = split_text(part, known, asks=is_last, frame=_frame(part, count, window))
            documents += [body] if body else []
            parts += [head + tail] if head + tail else []
        local.append(Message(message.role, parts))
    for give_away in (_oldest_messages, _parts_before_the_last):
        sizes = [sum(count(part) for part in message.parts) for message in local]
        if sum(sizes) <= window:
            break
        local, away = give_away(local, sizes, window // 2)
        documents += away
    return SplitPrompt(tuple(local), tuple(documents))


def split_text(
    text: str, known: KnownBeginning, *, asks: bool = True, frame: int = FRAME_CHARACTERS
) -> tuple[str, str, str]:
    """`text` as head, body and tail, which join to it; a short text is all head.

    Args:
        asks: whether the text ends in the question; otherwise it may have no tail.
        frame: the longest head, in characters; a tail behind a rule may have twice as many.
    """
    if len(text) <= 3 * frame:
        return text, "", ""
    start = _head_end(text, frame)
    rest = text[start:]
    end = _tail_start(rest, frame, asks)
    before = known(rest)
    if before is not None:
        left = rest[len(before) :]
        if len(left) <= 2 * frame and (left.strip() or not asks):
            end = len(before)
    return text[:start], rest[:end], rest[end:]


def _head_end(text: str, frame: int) -> int:
    """Where the text behind an instruction begins: behind the first rule or blank line, else at 0."""
    rule = _RULE.search(text)
    if rule is not None and rule.end() < frame:
        return rule.end() + 1
    blank = text.find("\n\n", 0, frame)
    return blank + 2 if blank > 0 else 0


def _tail_start(text: str, frame: int, asks: bool) -> int:
    """Where the question begins at the end of `text`.

    At the last rule; else at the last line that says "Question:"; else, if it `asks`, at the first blank line, line
    break, sentence or word of the last `frame` characters, so that rather too much stays local than half a question.
    """
    for sign in (_RULE, _ASKED):
        for match in reversed(list(sign.finditer(text, len(text) - 2 * frame))):
            behind = match.end() if sign is _RULE else match.start()
            if len(text[behind:].strip()) >= _SHORTEST_TAIL:
                return match.start() - 1 if match.start() else 0  # with the line break before it
    if not asks:
        return len(text)
    for mark in _WEAKER_CUTS:
        place = text.find(mark, len(text) - frame)
        if place >= 0 and len(text[place:].strip()) >= _SHORTEST_TAIL:
            return place + len(mark)
    return len(text) - frame


def _oldest_messages(messages: Sequence[Message], sizes: Sequence[int], room: int) -> tuple[list[Message], list[str]]:
    """The newest messages that fit into `room` tokens (always the last, and the system's), and the others' text."""
    kept = [message.role == "system" for message in messages]
    kept[-1] = True
    left = room - sum(size for size, keep in zip(sizes, kept, strict=True) if keep)
    for index in range(len(messages) - 2, -1, -1):
        if kept[index]:
            continue
        left -= sizes[index]
        if left < 0:
            break
        kept[index] = True
    gone = [message for message, keep in zip(messages, kept, strict=True) if not keep]
    transcript = "\n".join(f"{message.role}: {message.text}" for message in gone)
    return [message for message, keep in zip(messages, kept, strict=True) if keep], [transcript] if gone else []


def _parts_before_the_last(messages: Sequence[Message], _: Sequence[int], __: int) -> tuple[list[Message], list[str]]:
    """The messages with all parts but the very last taken away, and those parts."""
    *before, last = messages
    gone = [part for message in before for part in message.parts] + list(last.parts[:-1])
    return [Message(last.role, last.parts[-1:])], gone


def _frame(text: str, count: Callable[[str], int], window: int) -> int:
    """`FRAME_CHARACTERS`, or less where head and tail would fill the window (scripts of many tokens a character)."""
    frame = FRAME_CHARACTERS
    while frame > 1 and max(count(text[:frame]), count(text[-frame:])) > window // 3:
        frame //= 2
    return frame


def _count(text: str, count: Callable[[str], int], window: int) -> int:
    """Tokens of a text; for a very long one just more than the window, since counting a book takes seconds."""
    return window + 1 if len(text) > 64 * window else count(text)
