"""Two-step questions: resolve a description to a name first, then ask with the name.

The answer to "When was the director of The Last Coupon born?" is in a place that does not mention the film, so scoring
for this question does not find it. The reader extracts the description and resolves it from the passages found so far,
and the documents are searched again for "When was Frank Launder born?" (self-ask, arXiv 2210.03350).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from focusdoc.config import GenerationConfig
from focusdoc.readers.drafts import best_draft, draft_replies
from focusdoc.readers.finding import Found
from focusdoc.readers.passages import Passage
from focusdoc.readers.reader import Messages, collect
from focusdoc.readers.replies import Reply, Session
from focusdoc.readers.windows import words_of

#: Passages to resolve a description from.
NUM_PASSAGES = 3
#: Maximum length of a name in characters.
_MAX_NAME = 80
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
#: A description contains a relation.
_RELATION = re.compile(r"\b(?:of|that|which|who|whom|whose|by|where)\b|['\u2019]s\b", re.IGNORECASE)
#: A description of anybody or anything has no name.
_INDEFINITE = re.compile(r"(?:an?|any|some\w*)\b", re.IGNORECASE)
#: If only such words remain, the question itself asks for the name, and there is no second step.
_ASKING = {"who", "whom", "whose", "what", "which", "was", "were", "is", "are", "did", "does", "do", "name", "called"}

#: The first words of questions that no name answers. "Which book ...?" asks for one, and "Where is the home of ...?".
_NOT_FOR_NAMES = {"when", "why", "how"}


def find_description(session: Session, question: str) -> str | None:
    """The part of `question` that describes somebody or something without a name; None if there is none.

    Raises:
        ReaderError: the reader cannot be reached, or fails.
    """
    if not _RELATION.search(question.partition(" ")[2]):  # skip the question word
        return None
    examples = [turn for example, answer in _EXAMPLES for turn in (("user", example), ("assistant", answer))]
    messages: Messages = [("system", _TASK), *examples, ("user", question)]
    text, written = collect(session.reader.write(messages, _SETTINGS, session.request.cancel))
    session.reader_tokens += written.prompt_tokens
    description = text.strip().rstrip(".?")
    at = re.search(re.escape(description), question, re.IGNORECASE)
    if not description or at is None or not _RELATION.search(description) or _INDEFINITE.match(description):
        return None
    rest = question[: at.start()] + question[at.end() :]
    if all(word in _ASKING for word in words_of([rest.casefold()])[0]):
        return None
    return at.group()


def resolve_description(session: Session, description: str, found: Found, passages: Sequence[Passage]) -> Reply | None:
    """The reply that names what is described, from the best of `passages`; None if it is no new name."""
    question = f"Who or what is {description}?"
    reply = best_draft(draft_replies(session, question, found, passages[:NUM_PASSAGES]))
    is_name = reply.written.finish_reason == "stop" and 0 < len(name_of(reply)) <= _MAX_NAME
    reply_words, question_words = words_of([reply.text, question])
    return reply if is_name and not set(reply_words) <= set(question_words) else None


def may_only_name(reply: Reply) -> bool:
    """Whether a reply is as short as a name and has no digit, where no name answers the question."""
    first_word = reply.question.partition(" ")[0].casefold()
    return first_word in _NOT_FOR_NAMES and len(name_of(reply)) <= _MAX_NAME and not re.search(r"\d", reply.text)


def only_names(reply: Reply, known: Reply) -> bool:
    """Whether a reply to the whole question says only what resolves its description: Jules White, not his birthday."""
    said, asked, name = map(set, words_of([reply.text, reply.question, name_of(known)]))
    return may_only_name(reply) and bool(said - asked) and said - asked <= name


def name_of(reply: Reply) -> str:
    """The name in a reply, without surrounding punctuation."""
    return reply.text.strip().rstrip(".")
