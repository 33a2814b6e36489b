"""Fitting a conversation, a question and passages into a reader's context window."""

from __future__ import annotations

from focusdoc.config import GenerationConfig
from focusdoc.errors import PromptTooLongError
from focusdoc.readers.passages import NUM_WINDOWS
from focusdoc.readers.reader import Messages, Reader, reading_prompt

#: Upper bound of the tokens that a chat template adds per message.
_TEMPLATE_TOKENS = 32


def fit_reading(
    reader: Reader, question: str, earlier: Messages, settings: GenerationConfig, budget: int
) -> tuple[Messages, int]:
    """The earlier turns to keep with a question, and the token budget left for passages.

    Passages take precedence over earlier turns, and newer turns over older ones.

    Args:
        budget: maximum tokens of passages.

    Raises:
        PromptTooLongError: the question leaves no room for a passage.
    """
    return _fit(reader, reading_prompt(question, [""] * NUM_WINDOWS), earlier, settings, budget)


def fit_conversation(reader: Reader, conversation: Messages, settings: GenerationConfig) -> Messages:
    """The conversation, truncated to the reader's window; system messages and the last message are kept.

    Raises:
        PromptTooLongError: those alone do not fit.
    """
    *earlier, last = conversation
    return [*_fit(reader, [last], earlier, settings, 0)[0], last]


def _fit(
    reader: Reader, prompt: Messages, earlier: Messages, settings: GenerationConfig, budget: int
) -> tuple[Messages, int]:
    sizes = [reader.count(content) + _TEMPLATE_TOKENS for _, content in earlier]
    needed = sum(reader.count(content) + _TEMPLATE_TOKENS for _, content in prompt)
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
            # Start with a user's turn, as many templates require.
            for later in range(index + 1, len(earlier)):
                if earlier[later][0] == "user":
                    break
                kept[later] = earlier[later][0] == "system"
            break
        left -= sizes[index]
        kept[index] = True
    return [turn for turn, keep in zip(earlier, kept, strict=True) if keep], min(left, budget)
