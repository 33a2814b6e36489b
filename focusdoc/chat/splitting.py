"""The tail rule for prompts: what stays in the local context, and what goes to the memory (FocusLLM, section 3.1).

A prompt of the frameworks is a long text in a frame: instructions before it, a question behind it. The frame must
stay local, and it must not move the text's chunks, or a second question would read everything again. So each long
part of a message is cut at its own line breaks into head, body and tail. The body alone goes to the memory, on a grid
that begins with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from focusdoc.chat.messages import Message
from focusdoc.decoding.attribution import SENTENCE_END

#: Characters at either end of a long text that may be frame. About 200 tokens of English: every chunk reads the
#: local context's tail with every question, so a longer one costs as much as reading the text again.
FRAME_CHARACTERS = 800
#: Behind a cut there must be at least this much, or it is no question ("Answer:" alone).
_SHORTEST_TAIL = 16
_RULE = re.compile(
    r"^[ \t]*(?:([-=*_#~])\1{2,}|</?(?:context|documents?|sources?|passages?|text)>)[ \t]*$", re.M | re.I
)
_ASKED = re.compile(r"^[ \t]*(?:(?:user )?question|query|q)[ \t]*:", re.MULTILINE | re.IGNORECASE)
#: A blank line, a line break, the end of a sentence in whatever script, a space.
_WEAKER_CUTS = (re.compile("\n\n"), re.compile("\n"), SENTENCE_END, re.compile(" "))

#: Finds the longest text that the memory holds and that the given text begins with; None if there is none.
KnownBeginning = Callable[[str], str | None]


@dataclass(frozen=True)
class SplitPrompt:
    """What the model sees in full, and the texts that it gets through candidates."""

    local: tuple[Message, ...]
    documents: tuple[str, ...]


def split_prompt(
    messages: Sequence[Message],
    *,
    window: int,
    count: Callable[[str], int],
    known: KnownBeginning,
    per_message: int = 0,
) -> SplitPrompt:
    """Split a conversation that is longer than the local window; a shorter one stays whole.

    Long parts give their bodies. Where that is not enough, whole parts go: first the oldest messages, as one text,
    until what is left fills at most half the window (so that the next turns can leave the cut where it is), then
    the parts in front of the last one of all, each on its own.

    Args:
        window: tokens that may stay local.
        count: tokens of a text.
        known: keeps a text's end where it was for an earlier question.
        per_message: tokens that the template puts around each message.
    """

    def size(message: Message) -> int:
        return per_message + sum(_count(part, count, window) for part in message.parts)

    if sum(map(size, messages)) <= window:
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
    sizes = [size(message) for message in local]
    if sum(sizes) > window:
        gone = _oldest_messages(local, sizes, window, known)
        documents += [_transcript(local[index] for index in gone)] if gone else []
        local = [message for index, message in enumerate(local) if index not in gone]
    if sum(map(size, local)) > window:
        documents += [part for message in local for part in message.parts][:-1]
        local = [Message(local[-1].role, local[-1].parts[-1:])]
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
        found = mark.search(text, len(text) - frame)
        if found is not None and len(text[found.start() :].strip()) >= _SHORTEST_TAIL:
            return int(found.end())
    return len(text) - frame


def _oldest_messages(
    messages: Sequence[Message], sizes: Sequence[int], window: int, known: KnownBeginning
) -> list[int]:
    """Which messages go, never the system's and never the last: those that went before, if that still is enough."""
    may_go = [index for index, message in enumerate(messages[:-1]) if message.role != "system"]
    total = sum(sizes)
    before = known(_transcript(messages[index] for index in may_go))
    for end in range(1, len(may_go) + 1):
        total -= sizes[may_go[end - 1]]
        went = may_go[:end]
        if total <= window and _transcript(messages[index] for index in went) == before:
            return went
    total = sum(sizes)
    for end, index in enumerate(may_go):
        if total <= window // 2:
            return may_go[:end]
        total -= sizes[index]
    return may_go


def _transcript(messages: Iterable[Message]) -> str:
    return "\n".join(f"{message.role}: {message.text}" for message in messages)


def _frame(text: str, count: Callable[[str], int], window: int) -> int:
    """`FRAME_CHARACTERS`, or less where head and tail would fill the window (scripts of many tokens a character)."""
    frame = FRAME_CHARACTERS
    while frame > 1 and max(count(text[:frame]), count(text[-frame:])) > window // 3:
        frame //= 2
    return frame


def _count(text: str, count: Callable[[str], int], window: int) -> int:
    """Tokens of a text; for a very long one just more than the window, since counting a book takes seconds."""
    return window + 1 if len(text) > 64 * window else count(text)
