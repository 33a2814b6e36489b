"""Two steps: whom or what a question describes without a name is looked for first, and then named in the question.

"When was the director of The Last Coupon born?" has its answer where the film is not named, so that no look for this
question finds it. The reader names the description in it, answers who that is from what the first look found, and the
candidates look again for "When was Frank Launder born?" (self-ask, arXiv 2210.03350).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from focusdoc.config import GenerationConfig
from focusdoc.readers.drafts import best_of, drafts
from focusdoc.readers.finding import Found
from focusdoc.readers.passages import Passage
from focusdoc.readers.reader import Messages, whole
from focusdoc.readers.replies import Desk, Reply
from focusdoc.readers.windows import words_of

#: Passages that are read for who or what is described.
NUM_PASSAGES = 3
#: Characters of a name, at most.
_NAME = 80
_SETTINGS = GenerationConfig(max_new_tokens=24)
_TASK = (
    "Find the description in a question: the words by which it speaks of a person, a place or a thing "
    "without naming it."
)
_EXAMPLES = (
    ("Where was the author of Emma's Garden buried?", "the author of Emma's Garden"),
    ("Which river flows through the capital of Tavria?", "the capital of Tavria"),
    ("On which day did the wife of John Reed leave?", "the wife of John Reed"),
    ("What did the company that built the Orion sell first?", "the company that built the Orion"),
)
#: A description says whose or which it is.
_RELATION = re.compile(r"\b(?:of|that|which|who|whom|whose|by|where)\b|['\u2019]s\b", re.IGNORECASE)
#: What is asked about a description alone asks who or what it is, which is no further step.
_ASKING = {"who", "whom", "whose", "what", "which", "was", "were", "is", "are", "did", "does", "do", "name", "called"}


def described(desk: Desk, question: str) -> str | None:
    """The words of `question` that speak of somebody or something without a name; None where there are none.

    Raises:
        ReaderError: the reader cannot be reached, or breaks off.
    """
    if not _RELATION.search(question.partition(" ")[2]):  # behind the first word, which asks
        return None
    examples = [turn for asked, answer in _EXAMPLES for turn in (("user", asked), ("assistant", answer))]
    messages: Messages = [("system", _TASK), *examples, ("user", question)]
    text, written = whole(desk.reader.write(messages, _SETTINGS, desk.asked.cancel))
    desk.reader_tokens += written.prompt_tokens
    description = text.strip().rstrip(".?")
    at = question.casefold().find(description.casefold())
    if not description or at < 0 or not _RELATION.search(description):
        return None
    rest = question[:at] + question[at + len(description) :]
    if all(word in _ASKING for word in words_of([rest.casefold()])[0]):
        return None
    return question[at : at + len(description)]


def name_for(desk: Desk, description: str, found: Found, passages: Sequence[Passage]) -> Reply | None:
    """Who or what is described, from the best of `passages`; None where that tells nothing new."""
    question = f"Who or what is {description}?"
    reply = best_of(drafts(desk, question, found, passages[:NUM_PASSAGES]))
    name, (told, known) = name_in(reply), words_of([reply.text, question])
    if reply.written.finish_reason != "stop" or not 0 < len(name) <= _NAME or set(told) <= set(known):
        return None
    return reply


def name_in(reply: Reply) -> str:
    """What a reply names, without what a sentence has around it."""
    return reply.text.strip().rstrip(".")
