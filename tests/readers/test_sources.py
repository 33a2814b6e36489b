"""Sources carry the answer's words, sentence by sentence, and page by page."""

from __future__ import annotations

from typing import Any

import pytest

from focusdoc import Document, FocusConfig
from focusdoc.memory.chunk_memory import DocumentMemory
from focusdoc.readers.passages import Passage
from focusdoc.readers.sources import sources_of
from tiny_models import tiny_engine

TEXT = (
    "The mill stood by the river. Its owner was called Baldwin. He had no children.\f"
    "The inn stood on the hill. Its owner was called Cecily. She had seven children.\f"
    "\u78e8\u574a\u5728\u6cb3\u8fb9\u3002\u4e3b\u4eba\u53eb\u9c8d\u5fb7\u6e29\u3002"
)
PAGES = [Passage(0, 0, 78, 0, 0.6), Passage(0, 79, 158, 0, 0.3), Passage(0, 159, len(TEXT), 0, 0.1)]


@pytest.fixture(scope="module")
def memories(tiny_tokenizer: Any) -> list[DocumentMemory]:
    engine = tiny_engine(tiny_tokenizer, FocusConfig(chunk_size=64, local_window=256))
    return [engine.read(Document.from_text(TEXT, {"name": "places"}))]


@pytest.mark.parametrize(
    ("answer", "sentence", "page"),
    [
        ("Cecily", "Its owner was called Cecily.", 2),
        ("Her name was Cecily.", "Its owner was called Cecily.", 2),
        ("seven", "She had seven children.", 2),
        ("by the river", "The mill stood by the river.", 1),
        ("\u9c8d\u5fb7\u6e29", "\u4e3b\u4eba\u53eb\u9c8d\u5fb7\u6e29\u3002", 3),
    ],
)
def test_the_sentence_that_carries_the_answer_is_the_first_source(
    memories: list[DocumentMemory], answer: str, sentence: str, page: int
) -> None:
    first = sources_of(memories, PAGES, "Who owns it?", answer, 3)[0]
    assert (first.text, first.page) == (sentence, page)
    assert TEXT[first.start : first.end] == sentence


def test_of_sentences_with_the_answer_the_one_with_the_questions_words(memories: list[DocumentMemory]) -> None:
    first = sources_of(memories, PAGES[:1], "Where did the mill stand?", "the river, Baldwin", 1)[0]
    assert first.text == "The mill stood by the river."


@pytest.mark.parametrize("answer", ["", "The document does not say.", "Zanzibar"])
def test_an_answer_that_stands_nowhere_leaves_the_passages_as_found(
    memories: list[DocumentMemory], answer: str
) -> None:
    sources = sources_of(memories, PAGES, "Who?", answer, 2)
    assert [(each.start, each.end, each.score) for each in sources] == [(0, 78, 0.6), (79, 158, 0.3)]
