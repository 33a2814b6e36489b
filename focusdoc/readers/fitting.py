"""What of a conversation a reader's window holds beside the question, the passages and the answer."""

from __future__ import annotations

from focusdoc.config import GenerationConfig
from focusdoc.errors import PromptTooLongError
from focusdoc.readers.passages import NUM_WINDOWS
from focusdoc.readers.reader import Messages, Reader, reading_prompt

#: Tokens that a chat template puts around each message, at most.
_AROUND = 32


def fit_reading(
    reader: Reader, question: str, earlier: Messages, settings: GenerationConfig, budget: int
) -> tuple[Messages, int]:
    """The earlier turns that a question is asked behind, and the tokens of passages that fit beside them.

    Passages go before earlier turns, and newer turns before older ones.

    Args:
        budget: tokens of passages, at most.

    Raises:
        PromptTooLongError: the question alone leaves no room for a passage.
    """
    return _fit(reader, reading_prompt(question, [""] * NUM_WINDOWS), earlier, settings, budget)


def fit_conversation(reader: Reader, conversation: Messages, settings: GenerationConfig) -> Messages:
    """A conversation without what is too old for the reader's window; the system's words and the last message stay.

    Raises:
        PromptTooLongError: these alone do not fit.
    """
    *earlier, last = conversation
    return [*_fit(reader, [last], earlier, settings, 0)[0], last]


def _fit(
    reader: Reader, asked: Messages, earlier: Messages, settings: GenerationConfig, budget: int
) -> tuple[Messages, int]:
    sizes = [reader.count(content) + _AROUND for _, content in earlier]
    needed = sum(reader.count(content) + _AROUND for _, content in asked)
    needed += sum(size for size, (role, _) in zip(sizes, earlier, strict=True) if role == "system")
    left = reader.window - needed - settings.max_new_tokens
    if left < min(budget, 1):
        raise PromptTooLongError(
            f"{needed} tokens of question and instruction and {settings.max_new_tokens} new ones exceed the "
            f"{reader.window} tokens of {reader.name}; shorten the question or lower max_new_tokens."
        )
    kept = [role == "system" for role, _ in earlier]
    for index in reversed(range(len(earlier))):
        if kept[index]:
            continue
        if sizes[index] > left - budget:
            # What is kept begins with a user's turn: many templates want it to.
            for later in range(index + 1, len(earlier)):
                if earlier[later][0] == "user":
                    break
                kept[later] = earlier[later][0] == "system"
            break
        left -= sizes[index]
        kept[index] = True
    return [turn for turn, keep in zip(earlier, kept, strict=True) if keep], min(left, budget)
