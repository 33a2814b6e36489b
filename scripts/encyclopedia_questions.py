"""Questions about encyclopedia passages by rule: who directed a film, where somebody was born, whose son he was.

The passages are written by people, so that an adapter learns to retrieve from sentences of any structure; only the
questions are generated. A rule is a pattern whose first group is the answer, and wordings of its question.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

_NAME = r"[A-Z][\w'-]+(?: (?:[A-Z]\.|[A-Z][\w'-]+|de|von|van|of)){0,2} [A-Z][\w'-]+"
_DATE = r"\d{1,2} [A-Z][a-z]+ \d{4}|[A-Z][a-z]+ \d{1,2}, \d{4}"
_TOWN = r"[A-Z][\w-]+(?:,? [A-Z][\w-]+)*"
_TRADE = (
    r"[a-z]*(?: [a-z]+)?(?:actor|actress|director|singer|writer|footballer|composer|politician|poet|painter|novelist)"
)

RULES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (rf"directed by ({_NAME})", ("Who directed {}?", "Who is the director of {}?")),
    (rf"[Ss]tarring ({_NAME})", ("Who stars in {}?", "Which actor is named first for {}?")),
    (rf"written by ({_NAME})", ("Who wrote {}?", "Who is the writer of {}?")),
    (rf"produced by ({_NAME})", ("Who produced {}?", "Who is the producer of {}?")),
    (r" is an? (\d{4}) ", ("When was {} released?", "What year is {} from?")),
    (rf"\((?:[^()]*\b)?born:? ({_DATE})", ("When was {} born?", "What is the date of birth of {}?")),
    (rf"\(({_DATE}) ?[\u2013-] ?(?:{_DATE})\)", ("When was {} born?", "What is the birthday of {}?")),
    (rf"\((?:{_DATE}) ?[\u2013-] ?({_DATE})\)", ("When did {} die?", "What is the date of death of {}?")),
    (rf"\bborn in ({_TOWN})", ("Where was {} born?", "What is the place of birth of {}?")),
    (rf"\bdied (?:in|at) ({_TOWN})", ("Where did {} die?",)),
    (rf"(?:son|daughter) of ({_NAME})", ("Whose child is {}?", "Who was a parent of {}?")),
    (rf"married (?:to )?({_NAME})", ("Who married {}?", "Who was the spouse of {}?")),
    (rf"(?:is|was) an? (?:[A-Z]\w+ )?({_TRADE})\b", ("What is the profession of {}?", "What does {} do?")),
    (r"(?:is|was) an? ([A-Z][a-z]+(?:ish|an|ese|ch)) ", ("What is the nationality of {}?", "From which nation is {}?")),
    (r"based on ((?:the|a) [^.,;\"]{5,60}?)[.,;]", ("What is {} based on?",)),
    (rf"(?:located|situated) in ((?:the )?{_TOWN})", ("Where is {} located?", "Where is {}?")),
    (r"(?:founded|established|opened) in (\d{4})", ("When was {} founded?", "In which year did {} begin?")),
    (rf"\bplay(?:s|ed)(?: \w+)? for ({_TOWN})", ("Which team did {} play for?",)),
)


def encyclopedia_questions(path: Path, seed: int = 0) -> list[tuple[str, str, str]]:
    """(context, question, answer) triples of a JSON list of passages, each with ``title`` and ``text``."""
    rng = random.Random(seed)
    found = []
    for passage in json.loads(path.read_text(encoding="utf-8")):
        subject = re.sub(r" \([^)]*\)$", "", passage["title"])
        for pattern, wordings in RULES:
            match = re.search(pattern, passage["text"])
            if match and match.group(1) not in subject and len(passage["text"]) < 1500:
                found.append((passage["text"], rng.choice(wordings).format(subject), match.group(1).strip()))
    return found
