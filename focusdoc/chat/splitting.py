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
from focusdoc.errors import PromptTooLongError

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

    Raises:
        PromptTooLongError: the frame alone is longer than the window.
    """
    if sum(_count(part, count, window) for message in messages for part in message.parts) <= window:
        return SplitPrompt(tuple(messages), ())
    local: list[Message] = []
    documents: list[str] = []
    for message in messages:
        parts: list[str] = []
        for number, part in enumerate(message.parts, start=1):
            is_last = message is messages[-1] and number == len(message.parts)
            head, body, tail = split_text(part, known, asks=is_last)
            documents += [body] if body else []
            parts += [text for text in (head.rstrip("\n") if body else head, tail) if text]
        local.append(Message(message.role, parts))
    for give_away in (_oldest_messages, _parts_before_the_last):
        sizes = [sum(count(part) for part in message.parts) for message in local]
        if sum(sizes) <= window:
            break
        local, away = give_away(local, sizes, window // 2)
        documents += away
    size = sum(count(part) for message in local for part in message.parts)
    if size > window:
        raise PromptTooLongError(
            f"The prompt takes {size} tokens beside its documents, more than the local window of {window}; "
            "shorten its instructions or its last message, or raise local_window."
        )
    return SplitPrompt(tuple(local), tuple(documents))


def split_text(text: str, known: KnownBeginning, *, asks: bool = True) -> tuple[str, str, str]:
    """`text` as head, body and tail, which join to it; a short text is all head.

    Args:
        asks: whether the text ends in the question; otherwise it may have no tail.
    """
    if len(text) <= 3 * FRAME_CHARACTERS:
        return text, "", ""
    start = _head_end(text[:FRAME_CHARACTERS])
    rest = text[start:]
    end = len(rest) - FRAME_CHARACTERS + _tail_start(rest[-FRAME_CHARACTERS:], asks)
    before = known(rest)
    if before is not None:
        left = rest[len(before) :]
        if len(left) <= 2 * FRAME_CHARACTERS and (left.strip() or not asks):
            end = len(before)
    return text[:start], rest[:end], rest[end:]


def _head_end(beginning: str) -> int:
    """Where the text behind an instruction begins: behind the first rule or blank line, else at 0."""
    rule = _RULE.search(beginning)
    if rule is not None:
        return min(rule.end() + 1, len(beginning))
    blank = beginning.find("\n\n")
    return blank + 2 if blank > 0 else 0


def _tail_start(ending: str, asks: bool) -> int:
    """Where the question begins in the last characters of a text.

    Behind the last rule; else at the last line that says "Question:"; else, if it `asks`, at the first blank line,
    line break, sentence or word, so that rather too much stays local than half a question.
    """
    rules = [match.end() + 1 for match in _RULE.finditer(ending)]
    asked = [match.start() for match in _ASKED.finditer(ending)]
    for places in (rules, asked):
        fitting = [place for place in places if len(ending[place:].strip()) >= _SHORTEST_TAIL]
        if fitting:
            return fitting[-1]
    if not asks:
        return len(ending)
    for mark in _WEAKER_CUTS:
        place = ending.find(mark)
        if place >= 0 and len(ending[place:].strip()) >= _SHORTEST_TAIL:
            return place + len(mark)
    return 0


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


def _count(text: str, count: Callable[[str], int], window: int) -> int:
    """Tokens of a text; for a very long one just more than the window, since counting a book takes seconds."""
    return window + 1 if len(text) > 64 * window else count(text)
